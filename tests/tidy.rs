//! Style as a test: the rules of CONTRIBUTING.md that clippy and ruff cannot see.
//!
//! Each test gathers every fault before it fails, one line each, so that one run shows all there is to do. The
//! readers at the end (`code`, `floats`, `functions`, `links`) are tested on planted faults as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file and longest function, in lines.
const MAX_FILE: usize = 600;
const MAX_FUNCTION: usize = 120;

/// Texts that belong to one machine. They are put together here, so that this file does not contain them.
const MACHINE: [&str; 10] = [
    concat!("/wo", "rk/"),
    concat!("shared/", "design"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tm", "p/"),
    concat!("/Us", "ers/"),
    concat!("py", "pi.org"),
    concat!("files.python", "hosted.org"),
    concat!("index.crates", ".io"),
    concat!("deb.debian", ".org"),
];
/// Marks of unfinished work.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("HA", "CK"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
];

/// The crates that compute in integers only.
const INTEGER_ONLY: [&str; 3] = ["rust/core", "rust/engine", "rust/gpu"];
/// Directories in which each file is one entry of the registry in their `mod.rs`.
const REGISTRIES: [&str; 2] = ["rust/core/formats", "rust/quantize/arch"];

#[test]
fn the_engine_has_no_floats() {
    let mut faults = Vec::new();
    for directory in INTEGER_ONLY {
        for (path, text) in texts(directory, &["rs"]) {
            faults.extend(floats(&code(&text)).into_iter().map(|(line, what)| format!("{path}:{line}: {what}")));
        }
    }
    report(&faults);
}

#[test]
fn the_core_has_no_dependencies() {
    let manifest = fs::read_to_string(root().join("rust/core/Cargo.toml")).unwrap();
    assert!(!manifest.contains("dependencies"), "rust/core/Cargo.toml: the core depends on nothing");
}

#[test]
fn every_rust_file_is_a_module() {
    let mut faults = Vec::new();
    for (path, _) in texts("rust", &["rs"]) {
        let file = Path::new(&path);
        let (name, directory) = match file.file_name().unwrap().to_str().unwrap() {
            "lib.rs" | "main.rs" | "build.rs" => continue,
            "mod.rs" => (file.parent().unwrap(), file.parent().unwrap().parent().unwrap()),
            _ => (file, file.parent().unwrap()),
        };
        let name = name.file_stem().unwrap().to_str().unwrap();
        let parents = [directory.join("mod.rs"), directory.join("lib.rs"), directory.with_extension("rs")];
        let declared = parents.iter().filter_map(|parent| fs::read_to_string(root().join(parent)).ok()).any(|parent| {
            words(&code(&parent)).windows(3).any(|three| three[0] == "mod" && three[1] == name && three[2] == ";")
        });
        if !declared {
            faults.push(format!("{path}: no `mod {name};` leads to it"));
        }
    }
    report(&faults);
}

#[test]
fn every_file_of_a_registry_is_registered() {
    let mut faults = Vec::new();
    for directory in REGISTRIES {
        let registry = code(&fs::read_to_string(root().join(directory).join("mod.rs")).unwrap_or_default());
        let registry = words(&registry);
        for (path, _) in texts(directory, &["rs"]) {
            let name = Path::new(&path).file_stem().unwrap().to_str().unwrap();
            let used = registry.windows(3).any(|three| three[0] == name && three[1] == ":" && three[2] == ":");
            if name != "mod" && !used {
                faults.push(format!("{path}: {directory}/mod.rs registers nothing of `{name}`"));
            }
        }
    }
    report(&faults);
}

#[test]
fn sources_are_short() {
    let mut faults = Vec::new();
    for (path, text) in texts("", &["rs", "py", "pyi"]) {
        let lines = text.lines().count();
        if lines > MAX_FILE {
            faults.push(format!("{path}: {lines} lines, at most {MAX_FILE}: split it"));
        }
        if path.ends_with(".rs") {
            for (line, name, length) in functions(&code(&text)) {
                if length > MAX_FUNCTION {
                    faults.push(format!("{path}:{line}: `{name}` has {length} lines, at most {MAX_FUNCTION}"));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn nothing_names_a_machine_or_is_unfinished() {
    let mut faults = Vec::new();
    for (path, text) in texts("", &["rs", "py", "pyi", "md", "toml", "json", "sh", "run", "Makefile"]) {
        for (number, line) in text.lines().enumerate() {
            for word in MACHINE.iter().chain(&UNFINISHED).filter(|word| line.contains(**word)) {
                faults.push(format!("{path}:{}: `{word}`", number + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn links_resolve() {
    let mut faults = Vec::new();
    for (path, text) in texts("", &["md"]) {
        let directory = root().join(&path).parent().unwrap().to_path_buf();
        for (line, target) in links(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() { root().join(&path) } else { directory.join(file) };
            let found = if anchor.is_empty() {
                file.exists()
            } else {
                fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor))
            };
            if !found {
                faults.push(format!("{path}:{line}: nothing is at {target}"));
            }
        }
    }
    report(&faults);
}

#[test]
fn documents_that_sources_name_exist() {
    let mut faults = Vec::new();
    for (path, text) in texts("", &["rs", "py", "pyi", "toml", "md"]) {
        for (number, line) in text.lines().enumerate() {
            for rest in line.split("docs/").skip(1) {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-_./".contains(c)).unwrap_or(rest.len());
                let name = rest[..end].trim_end_matches('.');
                if name.ends_with(".md") && !root().join("docs").join(name).exists() {
                    faults.push(format!("{path}:{}: docs/{name} does not exist", number + 1));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn readers_find_what_is_planted() {
    let source = r##"
        //! f32 in a comment, 1.5 too
        fn one<'a>(x: &'a str) -> char { let _ = "f64 { // 2.0"; let _ = r#"1.0 " f32"#; '"' }
        /* f64 /* nested 3.0 */ f64 */
        fn two() {
            let pair = ((1, 2), 3); let _ = pair.0.1; let _ = 0..7; let _ = 1.max(2); let _ = 0x1e5;
        }
        trait T { fn three(&self) -> [u8; 3]; }
    "##;
    let clean = code(source);
    assert_eq!(clean.len(), source.len());
    assert_eq!(clean.lines().count(), source.lines().count());
    assert_eq!(floats(&clean), []);
    assert_eq!(functions(&clean), [(3, "one".to_string(), 1), (5, "two".to_string(), 3)]);
    for planted in ["x as f32", "1.5", "2.", "3e4", "1_f64", "0f32", "x.as_f64()", "f64::from(x)", "f16", "7.0_f32"] {
        assert_eq!(floats(&code(&format!("let a = {planted};"))).len(), 1, "{planted}");
    }
    let page = "[a](b.md)\n```\n[no](no.md)\n```\n[w](https://x) and [c](#d-e) ![p](q.png \"title\")\n# D: `e`\n";
    let expected = [(1, "b.md".to_string()), (5, "#d-e".to_string()), (5, "q.png".to_string())];
    assert_eq!(links(page), expected);
    assert_eq!(anchors(page), BTreeSet::from(["d-e".to_string()]));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

/// Every file below `directory` whose extension (or, without one, whose name) is in `kinds`: its path from the root,
/// with `/`, and its text. What is built, fetched or generated is left out.
fn texts(directory: &str, kinds: &[&str]) -> Vec<(String, String)> {
    const SKIPPED: [&str; 5] = ["target", "build", "dist", "vectors", "__pycache__"];
    let mut found = Vec::new();
    let mut pending = vec![root().join(directory)];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) && (!name.starts_with('.') || name == ".ci") {
                    pending.push(path);
                }
            } else if kinds.contains(&path.extension().map_or(name.as_str(), |kind| kind.to_str().unwrap())) {
                let below = path.strip_prefix(root()).unwrap().components();
                let below: Vec<_> = below.map(|part| part.as_os_str().to_str().unwrap()).collect();
                found.push((below.join("/"), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "nothing of the kinds {kinds:?} lies in {directory:?}");
    found.sort();
    found
}

/// Rust source with blanks in place of comments, strings and character literals; newlines stay.
fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source.as_bytes()[at..];
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if rest[0] == b'"' {
            quoted(rest, b'"')
        } else if rest[0] == b'r' && (!after_word || bytes[at - 1] == b'b') {
            raw_string(rest)
        } else if rest[0] == b'\'' && is_character(rest) {
            quoted(rest, b'\'')
        } else {
            0
        };
        out[at..at + length].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at += length.max(1);
    }
    String::from_utf8(out).unwrap()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += 1 + usize::from(rest[at] == b'\\');
    }
    (at + 1).min(rest.len())
}

/// The length of `r"…"` or `r#"…"#`; 0 for a word that begins with r.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end: Vec<u8> = [b'"'].into_iter().chain([b'#'].repeat(hashes)).collect();
    let body = &rest[hashes + 2..];
    body.windows(end.len()).position(|window| window == end).map_or(rest.len(), |at| hashes + 2 + at + end.len())
}

/// Whether a `'` begins a character and not a lifetime.
fn is_character(rest: &[u8]) -> bool {
    rest.get(1) == Some(&b'\\')
        || rest.iter().skip(2).take(4).position(|&b| b == b'\'').is_some_and(|at| at == 0 || !rest[1].is_ascii())
}

/// Words, numbers (with what follows a point) and single other characters of cleaned source.
fn words(code: &str) -> Vec<&str> {
    let bytes = code.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let word =
            |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let mut end = word(at);
        // `x.0.1` is a field of a field, `0..7` a range, `1.max(2)` a call.
        let field = words.last() == Some(&".");
        if end > at && bytes[at].is_ascii_digit() && !field && bytes.get(end) == Some(&b'.') {
            let next = bytes.get(end + 1).copied().unwrap_or(b' ');
            if !(next == b'.' || next.is_ascii_alphabetic() || next == b'_') {
                end = word(end + 1);
            }
        }
        end = end.max(at + code[at..].chars().next().map_or(1, char::len_utf8));
        if !bytes[at].is_ascii_whitespace() {
            words.push(&code[at..end]);
        }
        at = end;
    }
    words
}

/// Line and text of every float type, float literal and name made of one (`as_f64`) in cleaned source.
fn floats(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for word in words(line) {
            let digits = word.as_bytes()[0].is_ascii_digit();
            let decimal = digits && !["0x", "0b", "0o"].iter().any(|prefix| word.starts_with(prefix));
            let exponent = word.split_once(['e', 'E']).is_some_and(|(whole, power)| {
                let digit = |b: u8| b.is_ascii_digit() || b == b'_';
                whole.bytes().all(digit) && (power.is_empty() || power.bytes().all(digit))
            });
            let named = word.split('_').any(|part| {
                let suffix = part.trim_start_matches(|c: char| decimal && (c.is_ascii_digit() || c == '.'));
                ["f16", "f32", "f64", "f128"].contains(&suffix)
            });
            if named || decimal && (word.contains('.') || exponent) {
                found.push((number + 1, word.to_string()));
            }
        }
    }
    found
}

/// First line, name and number of lines of every function with a body in cleaned source.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    // Each function whose end is ahead: line, name, and the brace depth at which it began.
    let mut open: Vec<(usize, String, usize)> = Vec::new();
    // The header that is being read: line, name, and its bracket depth (`[u8; 3]` does not end it).
    let mut header: Option<(usize, String, usize)> = None;
    let mut depth = 0usize;
    for (number, line) in code.lines().enumerate() {
        let mut previous = "";
        for word in words(line) {
            if previous == "fn" && (word.as_bytes()[0].is_ascii_alphabetic() || word.starts_with('_')) {
                header = Some((number + 1, word.to_string(), 0));
            }
            previous = word;
            match (word, &mut header) {
                ("(" | "[", Some(header)) => header.2 += 1,
                (")" | "]", Some(header)) => header.2 = header.2.saturating_sub(1),
                (";", Some((_, _, 0))) => header = None,
                ("{", Some((_, _, 0))) => {
                    let (line, name, _) = header.take().unwrap();
                    open.push((line, name, depth));
                    depth += 1;
                }
                ("{", _) => depth += 1,
                ("}", _) => {
                    depth = depth.saturating_sub(1);
                    if open.last().is_some_and(|function| function.2 == depth) {
                        let (line, name, _) = open.pop().unwrap();
                        found.push((line, name, number + 2 - line));
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// The lines of a Markdown text outside fenced code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((number + 1, line))
    })
}

/// Line and target of every link of a Markdown text that leads to a file or a heading of this repository.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            if !target.contains(':') {
                found.push((number, target.to_string()));
            }
        }
    }
    found
}

/// The anchors of a Markdown text's headings, as code hosts form them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().chars();
        let kept = kept.filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(|(_, line)| anchor(line)).collect()
}
