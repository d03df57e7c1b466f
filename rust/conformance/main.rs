//! `intact-conformance`: proves that this machine computes contract v1, on every back end that it has.

use intact::receipt::{Spot, Verdict};
use intact_conformance::receipts;
use intact_conformance::report::{self, Selection};
use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "\
usage: intact-conformance machine [--backends A,B] [--expect A,B] [--cases PREFIX] [--threads N] [--json] [--verbose]
       intact-conformance receipt FILE MODEL [--backend A] [--spot K] [--spot-seed S] [--threads N]
       intact-conformance publish

machine  runs every case on the back ends of this machine and compares with the published digests
           --backends A,B   only these
           --expect A,B     fail where other back ends than these ran
           --cases PREFIX   only cases whose name begins so
           --threads N      threads of the pool (1)
           --json           one JSON object instead of text
           --verbose        name every case as it is done
receipt  computes again what a receipt says, all of it or K steps that S decides, and says whether it is true
publish  prints tests/vectors/reference.json as the reference computes it

status   0 equal, 1 something differs or did not run, 2 wrong usage or unusable input";

/// Why the program ends early: a message and the status.
struct Stop(String, u8);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((command, rest)) if command == "machine" => machine(rest),
        Some((command, rest)) if command == "receipt" => receipt(rest),
        Some((command, [])) if command == "publish" => print(&report::reference_digests()),
        Some((command, _)) if command == "--help" || command == "-h" => print(&format!("{USAGE}\n")),
        _ => Err(Stop(USAGE.to_owned(), 2)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop(message, status)) => {
            if !message.is_empty() {
                eprintln!("{message}");
            }
            ExitCode::from(status)
        }
    }
}

/// Writes to standard output, which may be closed.
fn print(text: &str) -> Result<(), Stop> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Stop(format!("standard output: {error}"), 1))
}

fn machine(arguments: &[String]) -> Result<(), Stop> {
    let (mut selection, mut expect, mut json, mut verbose) = (Selection::default(), None, false, false);
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| Stop(format!("{option} needs a value\n{USAGE}"), 2));
        match option.as_str() {
            "--backends" => selection.backends = Some(names(value()?)),
            "--expect" => expect = Some(names(value()?)),
            "--cases" => selection.prefix.clone_from(value()?),
            "--threads" => selection.threads = number(option, value()?, 1024)?,
            "--json" => json = true,
            "--verbose" => verbose = true,
            _ => return Err(Stop(format!("{option} is no option\n{USAGE}"), 2)),
        }
    }
    let mut progress = |backend: &str, case: &str, equal: bool| {
        if verbose {
            eprintln!("{backend} {case} {}", if equal { "equal" } else { "DIFFERS" });
        }
        true
    };
    let report = report::run(&selection, &mut progress).map_err(|problem| Stop(problem, 2))?;
    let text = if json { report.json().to_string() } else { report.text() };
    print(&format!("{text}\n"))?;
    if let Some(expect) = expect.filter(|expect| *expect != report.ran()) {
        let problem = format!("these back ends ran: {}; expected were: {}", report.ran().join(","), expect.join(","));
        return Err(Stop(problem, 1));
    }
    if report.equal() { Ok(()) } else { Err(Stop("not equal to what is published".to_owned(), 1)) }
}

fn receipt(arguments: &[String]) -> Result<(), Stop> {
    let [file, model, rest @ ..] = arguments else { return Err(Stop(USAGE.to_owned(), 2)) };
    let (mut backend, mut threads, mut steps, mut seed) = (None, 1, None, 0);
    let mut rest = rest.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or_else(|| Stop(format!("{option} needs a value\n{USAGE}"), 2))?;
        match option.as_str() {
            "--backend" => backend = Some(value.as_str()),
            "--threads" => threads = number(option, value, 1024)?,
            "--spot" => steps = Some(number(option, value, usize::MAX)?),
            "--spot-seed" => seed = number(option, value, usize::MAX)? as u64,
            _ => return Err(Stop(format!("{option} is no option\n{USAGE}"), 2)),
        }
    }
    let kernels = report::kernels(backend).map_err(|problem| Stop(problem, 2))?;
    let spot = steps.map(|steps| Spot { steps, seed });
    let verdict = receipts::verify(file.as_ref(), model.as_ref(), kernels, threads, spot);
    let verdict = verdict.map_err(|problem| Stop(problem, 2))?;
    print(&format!("{}: {verdict}\n", kernels.name))?;
    match verdict {
        Verdict::Equal { .. } => Ok(()),
        Verdict::Different { .. } => Err(Stop(String::new(), 1)),
        Verdict::Refused { .. } => Err(Stop(String::new(), 2)),
    }
}

fn number(option: &str, value: &str, most: usize) -> Result<usize, Stop> {
    let number = value.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| Stop(format!("{option} takes a number within 1…{most}"), 2))
}

fn names(list: &str) -> Vec<String> {
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
