//! Running the suite on the back ends of this machine, and what is said about it.

use crate::{Case, Machine, Outcome, cases, vectors};
use intact::model::sha256_hex;
use intact_core::CONTRACT_VERSION;
use intact_core::cpu::Pool;
use intact_core::kernels::{Kernels, SETS};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What is to run.
#[derive(Default)]
pub struct Selection {
    /// Back ends by name; `None` for all that the machine has.
    pub backends: Option<Vec<String>>,
    /// Only cases whose name begins with this.
    pub prefix: String,
    /// Threads; 0 for 1.
    pub threads: usize,
}

/// What happened on one back end.
pub struct BackEnd {
    /// Name of the kernel set.
    pub name: &'static str,
    /// Digest by case.
    pub digests: BTreeMap<String, String>,
    /// Reason by case that cannot run here.
    pub skipped: BTreeMap<String, String>,
    /// What differs by case.
    pub problems: BTreeMap<String, String>,
    /// Wall time.
    pub milliseconds: u128,
}

/// What happened on the machine.
pub struct Report {
    /// Those that ran.
    pub backends: Vec<BackEnd>,
    /// Back ends that did not run, with the reason.
    pub absent: Vec<(&'static str, String)>,
    /// Files of this build that are not those published.
    pub damaged: Vec<String>,
    /// Published digests of the selected cases.
    pub published: BTreeMap<String, String>,
}

/// Digest of the digests of cases: SHA-256 over `name`, a space, the digest and a newline, in order of name.
#[must_use]
pub fn digest_of_all(digests: &BTreeMap<String, String>) -> String {
    let text: String = digests.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
    sha256_hex(text.as_bytes())
}

/// Hears of every case that is done (back end, case, whether it is as published) and answers whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(&str, &str, bool) -> bool;

/// Runs the selection. What `progress` stops is not in the report.
///
/// # Errors
/// A back end that this build does not have.
pub fn run(selection: &Selection, progress: Progress<'_>) -> Result<Report, String> {
    let wanted = |name: &str| selection.backends.as_ref().is_none_or(|names| names.iter().any(|wanted| wanted == name));
    let known = |name: &&String| SETS.iter().any(|set| set.kernels.name == **name);
    if let Some(name) = selection.backends.iter().flatten().find(|name| !known(name)) {
        let names: Vec<&str> = SETS.iter().map(|set| set.kernels.name).collect();
        return Err(format!("no back end of this build is called {name}; it has {}", names.join(", ")));
    }
    let chosen = |name: &String| name.starts_with(&selection.prefix);
    let mut report = Report {
        backends: Vec::new(),
        absent: Vec::new(),
        damaged: vectors::damaged(),
        published: vectors::published().into_iter().filter(|(name, _)| chosen(name)).collect(),
    };
    if !report.damaged.is_empty() {
        // Cases may rely on the shape of the files; there is nothing to learn from others.
        return Ok(report);
    }
    let cases: Vec<Case> = cases().into_iter().filter(|case| chosen(&case.name)).collect();
    let pool = Arc::new(Pool::new(selection.threads.max(1)));
    for set in SETS {
        let name = set.kernels.name;
        if !(set.available)() {
            report.absent.push((name, format!("this machine has not what it needs: {}", set.needs)));
        } else if !wanted(name) {
            report.absent.push((name, "not asked for".to_owned()));
        } else {
            let machine = Machine { kernels: &set.kernels, pool: Arc::clone(&pool) };
            match back_end(&cases, &machine, &report.published, progress) {
                Some(backend) => report.backends.push(backend),
                None => report.absent.push((name, "stopped".to_owned())),
            }
        }
    }
    Ok(report)
}

/// `None` where it was stopped.
fn back_end(
    cases: &[Case], machine: &Machine, published: &BTreeMap<String, String>, progress: Progress<'_>,
) -> Option<BackEnd> {
    let start = Instant::now();
    let name = machine.kernels.name;
    let (mut digests, mut skipped, mut problems) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for case in cases {
        match case.check(machine, published.get(&case.name).map(String::as_str)) {
            Outcome::Skipped(reason) => {
                skipped.insert(case.name.clone(), reason);
            }
            Outcome::Ran { digest, problem } => {
                digests.insert(case.name.clone(), digest);
                problems.extend(problem.map(|problem| (case.name.clone(), problem)));
            }
        }
        if !progress(name, &case.name, !problems.contains_key(&case.name)) {
            return None;
        }
    }
    for name in published.keys().filter(|name| !digests.contains_key(*name) && !skipped.contains_key(*name)) {
        problems.insert(name.clone(), "it is published, and this build does not have it".to_owned());
    }
    Some(BackEnd { name, digests, skipped, problems, milliseconds: start.elapsed().as_millis() })
}

impl Report {
    /// Whether something ran, no case was skipped, and every result is as published.
    #[must_use]
    pub fn equal(&self) -> bool {
        let proven = |run: &BackEnd| run.problems.is_empty() && run.skipped.is_empty();
        self.damaged.is_empty() && !self.backends.is_empty() && self.backends.iter().all(proven)
    }

    /// The names of the back ends that ran, slowest first.
    #[must_use]
    pub fn ran(&self) -> Vec<&'static str> {
        self.backends.iter().map(|backend| backend.name).collect()
    }

    /// The published digest of all selected cases.
    #[must_use]
    pub fn expected(&self) -> String {
        digest_of_all(&self.published)
    }

    /// Everything, as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let ran = self.backends.iter().map(|run| {
            let list = |key: &str, of: &BTreeMap<String, String>| -> Vec<Value> {
                of.iter().map(|(case, text)| json!({"case": case, key: text})).collect()
            };
            json!({
                "name": run.name,
                "ran": true,
                "cases": run.digests.len(),
                "skipped": list("reason", &run.skipped),
                "differs": list("problem", &run.problems),
                "digest": digest_of_all(&run.digests),
                "milliseconds": run.milliseconds as u64,
            })
        });
        let absent = self.absent.iter().map(|(name, reason)| json!({"name": name, "ran": false, "reason": reason}));
        json!({
            "contract": CONTRACT_VERSION,
            "machine": machine(),
            "backends": ran.chain(absent).collect::<Vec<_>>(),
            "damaged": self.damaged,
            "cases": self.published,
            "expected": self.expected(),
            "equal": self.equal(),
        })
    }

    /// What a person wants to know.
    #[must_use]
    pub fn text(&self) -> String {
        let machine = machine();
        let mut lines = vec![format!(
            "contract {CONTRACT_VERSION}; {} ({}-endian, {} bits)",
            machine["arch"].as_str().unwrap_or_default(),
            machine["endian"].as_str().unwrap_or_default(),
            machine["pointer_bits"]
        )];
        lines.extend(self.damaged.iter().map(|problem| format!("tests/vectors/{problem}")));
        for run in &self.backends {
            let verdict = if run.problems.is_empty() { "equal" } else { "DIFFERS" };
            let (cases, digest, seconds) = (run.digests.len(), digest_of_all(&run.digests), run.milliseconds / 1000);
            lines.push(format!("{:<14} {cases} cases  {digest}  {seconds:>4} s  {verdict}", run.name));
            lines.extend(run.problems.iter().map(|(case, problem)| format!("  {case}: {}", short(problem))));
            lines.extend(run.skipped.iter().map(|(case, reason)| format!("  {case}: skipped: {reason}")));
        }
        lines.extend(self.absent.iter().map(|(name, reason)| format!("{name:<14} did not run: {reason}")));
        lines.push(format!("{:<14} {} cases  {}", "published", self.published.len(), self.expected()));
        lines.join("\n")
    }
}

/// A problem in one line; those of whole vectors are long.
fn short(problem: &str) -> String {
    const LONGEST: usize = 400;
    match problem.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &problem[..end]),
        None => problem.to_owned(),
    }
}

fn machine() -> Value {
    let endian = if cfg!(target_endian = "big") { "big" } else { "little" };
    json!({"arch": std::env::consts::ARCH, "endian": endian, "pointer_bits": usize::BITS})
}

/// The digests of the cases that the oracle does not compute, as the reference kernels give them: reference.json.
#[must_use]
pub fn reference_digests() -> String {
    let machine = Machine { kernels: &intact_core::kernels::reference::KERNELS, pool: Arc::new(Pool::new(2)) };
    let oracle = vectors::oracle_cases();
    let cases = cases();
    let mut lines = Vec::new();
    for case in cases.iter().filter(|case| !oracle.contains_key(&case.name)) {
        if let Outcome::Ran { digest, .. } = case.check(&machine, None) {
            lines.push(format!("  {}: {}", json!(case.name), json!(digest)));
        }
    }
    format!("{{\n \"contract\": {CONTRACT_VERSION},\n \"cases\": {{\n{}\n }}\n}}\n", lines.join(",\n"))
}

/// The set of kernels with that name, where this machine can run it; the fastest for `None`.
///
/// # Errors
/// Names what there is.
pub fn kernels(name: Option<&str>) -> Result<&'static Kernels, String> {
    let names = || Kernels::available().iter().map(|kernels| kernels.name).collect::<Vec<_>>().join(", ");
    Kernels::choose(name)
        .ok_or_else(|| format!("{} is no back end of this machine; it has {}", name.unwrap_or("none"), names()))
}
