//! tests/vectors, which is part of this program (tests/oracle/README.md describes the files).
//!
//! [`damaged`] compares every file with its published hash. What reads them afterwards may rely on their shape.

use intact::model::sha256_hex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Path below tests/vectors, content.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/vectors.rs"));

/// What the oracle published: a hash of each file and a digest of each case.
const PUBLISHED: &str = "conformance.json";
/// Digests of cases that the oracle does not compute; the reference kernels made them.
const REFERENCE: &str = "reference.json";

/// The bytes of a file.
///
/// # Panics
/// If it is no part of this program.
pub(crate) fn bytes(name: &str) -> &'static [u8] {
    find(name).unwrap_or_else(|| panic!("tests/vectors/{name} is missing in this build"))
}

fn find(name: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(path, _)| *path == name).map(|(_, bytes)| *bytes)
}

/// A JSON file that is an object.
pub(crate) fn object(name: &str) -> Map<String, Value> {
    serde_json::from_slice(bytes(name)).unwrap_or_else(|error| panic!("tests/vectors/{name}: {error}"))
}

/// The names of the model directories.
pub(crate) fn models() -> Vec<&'static str> {
    let name =
        |path: &'static str| path.strip_prefix("models/")?.strip_suffix(".json").filter(|name| !name.contains('/'));
    FILES.iter().filter_map(|(path, _)| name(path)).collect()
}

/// The published digest of every case, by name.
///
/// # Panics
/// If the files of this build are not of their form.
#[must_use]
pub fn published() -> BTreeMap<String, String> {
    let mut all = oracle_cases();
    if find(REFERENCE).is_some() {
        all.extend(cases_of(REFERENCE));
    }
    all
}

/// Those that the oracle computed.
pub(crate) fn oracle_cases() -> BTreeMap<String, String> {
    cases_of(PUBLISHED)
}

fn cases_of(file: &str) -> BTreeMap<String, String> {
    let cases = object(file).remove("cases").expect("a file of digests has cases");
    serde_json::from_value(cases).expect("digests are strings")
}

/// Files of this build that are not those published, with what is wrong.
#[must_use]
pub fn damaged() -> Vec<String> {
    let mut expected = match object(PUBLISHED).remove("files") {
        Some(Value::Object(files)) => files,
        _ => return vec![format!("{PUBLISHED}: it has no files")],
    };
    let mut problems = Vec::new();
    for (path, bytes) in FILES.iter().filter(|(path, _)| ![PUBLISHED, REFERENCE].contains(path)) {
        let found = sha256_hex(bytes);
        match expected.remove(*path) {
            None => problems.push(format!("{path}: it is not published")),
            Some(recorded) if recorded != found.as_str() => {
                problems.push(format!("{path}: SHA-256 is {found}, published is {recorded}"));
            }
            Some(_) => (),
        }
    }
    problems.extend(expected.keys().map(|path| format!("{path}: it is missing")));
    problems
}

/// An argument as an integer of the type that the caller needs.
pub(crate) fn number<T: TryFrom<i128, Error: std::fmt::Debug>>(value: &Value) -> T {
    let wide = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    wide.unwrap_or_else(|| panic!("{value} is no integer")).try_into().expect("vectors stay within their types")
}

/// A list of integers.
pub(crate) fn numbers<T: TryFrom<i128, Error: std::fmt::Debug>>(value: &Value) -> Vec<T> {
    list(value).iter().map(number).collect()
}

/// A list of lists of integers.
pub(crate) fn rows(value: &Value) -> Vec<Vec<i32>> {
    list(value).iter().map(numbers).collect()
}

/// The items of a list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// Bytes from hexadecimal digits.
pub(crate) fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no string"));
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal digits")).collect()
}

/// SHA-256 over integers as little-endian words of `size` bytes.
pub(crate) fn sha256(values: impl Iterator<Item = i64>, size: usize) -> String {
    let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes().into_iter().take(size)).collect();
    sha256_hex(&bytes)
}
