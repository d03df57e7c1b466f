//! The conformance suite on every back end of this machine.
//!
//! `INTACT_EXPECT_SETS=reference,sse4.1,avx2` fails where other back ends than these ran.

use intact_conformance::report::{Selection, digest_of_all, run};
use intact_conformance::{cases, vectors};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_back_end_computes_what_is_published() {
    let report = run(&Selection::default(), &mut |_, _, _| true).unwrap();
    println!("{}", report.text());
    assert_eq!(report.damaged, [""; 0]);
    for backend in &report.backends {
        assert!(backend.problems.is_empty(), "{}: {:?}", backend.name, backend.problems);
        assert!(backend.skipped.is_empty(), "{}: {:?}", backend.name, backend.skipped);
        assert_eq!(digest_of_all(&backend.digests), report.expected(), "{}", backend.name);
    }
    assert!(report.equal());
    if let Ok(expected) = std::env::var("INTACT_EXPECT_SETS") {
        assert_eq!(report.ran().join(","), expected, "INTACT_EXPECT_SETS");
    }
}

#[test]
fn what_is_published_is_what_is_run() {
    let names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    let unique: BTreeSet<&String> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "two cases share a name");
    assert_eq!(unique, vectors::published().keys().collect());
}

#[test]
fn an_unknown_back_end_is_refused_by_name() {
    let selection = Selection { backends: Some(vec!["avx1024".to_owned()]), ..Selection::default() };
    let problem = run(&selection, &mut |_, _, _| true).err().unwrap();
    assert!(problem.contains("avx1024") && problem.contains("reference"), "{problem}");
}

#[test]
fn documents_name_what_is_published() {
    let published = vectors::published();
    let (count, digest) = (published.len(), digest_of_all(&published));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = root.ancestors().find(|path| path.join("README.md").is_file()).unwrap();
    for (file, claim) in [
        ("README.md", format!("{count} cases each, digest of all `{digest}`")),
        ("docs/CONFORMANCE.md", format!("{}…, {count} cases", &digest[..8])),
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(&claim), "{file} does not say {claim:?}");
    }
}
