//! Puts tests/vectors into the program, so that one file is all that another machine needs.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../tests/vectors");
    let root = root.canonicalize().expect("tests/vectors is part of the sources");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let mut table = String::from("&[\n");
    for path in files {
        let name = path.strip_prefix(&root).expect("found below it").to_str().expect("names are ASCII");
        let name = name.replace('\\', "/");
        writeln!(table, "    ({name:?}, include_bytes!({:?})),", path.display()).expect("a string grows");
    }
    table.push_str("]\n");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("vectors.rs");
    fs::write(out, table).expect("cargo made the directory");
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of tests/vectors") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
