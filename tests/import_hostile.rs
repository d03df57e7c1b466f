//! GGUF headers that lie. Everything is refused with a message that names the field, within bounded memory.
mod import_support;

use import_support::{F32, Gguf, array, string, tiny};
use intact_quantize::error::Error;
use intact_quantize::import::Gguf as Header;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

thread_local! {
    /// Bytes that this thread holds (less than 0 where it frees what others reserved), and the most that it has held since [`peak_of`] began.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator with a gauge for each thread.
struct Gauge;

// SAFETY: every call is the system allocator's own; the gauge neither allocates nor panics.
unsafe impl GlobalAlloc for Gauge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + layout.size().cast_signed());
        PEAK.set(PEAK.get().max(HELD.get()));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size().cast_signed());
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static GAUGE: Gauge = Gauge;

/// The result of `work`, and the most bytes that it held at a time.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before).cast_unsigned())
}

/// Parses within the promised memory: twice the file, plus what messages and small tables take.
#[track_caller]
fn parse(bytes: &[u8]) -> Result<Header, Error> {
    const SMALL: usize = 16 << 10;
    let (result, peak) = peak_of(|| Header::parse(Path::new("m.gguf"), bytes));
    assert!(peak <= 2 * bytes.len() + SMALL, "{peak} bytes held for a file of {}", bytes.len());
    result
}

#[track_caller]
fn assert_refused(bytes: &[u8], parts: &[&str]) {
    let message = parse(bytes).unwrap_err().to_string();
    assert!(message.starts_with("m.gguf: "), "{message}");
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

/// A header's first 24 bytes, with these counts.
fn head(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

#[test]
fn every_truncation_is_refused() {
    let whole = tiny("llama").text("general.name", "é").meta("list", 9, array(8, 2, &string("ab").repeat(2))).bytes();
    parse(&whole).unwrap();
    for length in 0..whole.len() {
        assert!(matches!(parse(&whole[..length]), Err(Error::Malformed { .. })), "{length} bytes");
    }
}

#[test]
fn no_changed_byte_does_harm() {
    let whole = tiny("llama").meta("list", 9, array(8, 2, &string("ab").repeat(2))).bytes();
    let header_end = parse(&whole).unwrap().tensors[0].range.start;
    let mut refused = 0;
    for at in 0..header_end {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff, whole[at] ^ 1] {
            let mut changed = whole.clone();
            changed[at] = value;
            match parse(&changed) {
                Ok(header) => assert!(header.tensors.iter().all(|tensor| tensor.range.end <= changed.len())),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > header_end, "the header is hardly looked at: {refused} refused");
}

#[test]
fn versions_and_byte_orders() {
    assert_refused(b"ggml\x03\0\0\0", &["does not begin with GGUF", "pass a GGUF file"]);
    assert_refused(&head(1, 0, 0), &["version", "1 is not supported", "current llama.cpp"]);
    assert_refused(&head(4, 0, 0), &["version", "4 is not supported"]);
    assert_refused(&head(3_u32.swap_bytes(), 0, 0), &["version", "big-endian", "little-endian file"]);
    parse(&head(3, 0, 0)).unwrap();
}

#[test]
fn counts_that_nothing_backs() {
    for count in [u64::MAX, 1 << 63, 1 << 40, (1 << 16) + 1] {
        assert_refused(&head(3, count, 0), &["tensor count", "65536"]);
        assert_refused(&head(3, 0, count), &["key count", "65536"]);
    }
    assert_refused(&head(3, 1 << 16, 0), &["tensor 0", "0 are left"]);
    assert_refused(&head(3, 0, 1 << 16), &["key 0", "0 are left"]);
    for count in [u64::MAX, u64::MAX / 8 + 2, 1 << 61, 1 << 40, 100] {
        let text = [&count.to_le_bytes()[..], b"abc"].concat();
        assert_refused(&[head(3, 0, 1), text.clone()].concat(), &["key 0", "announced"]);
        assert_refused(&Gguf::new().meta("a", 8, text).bytes(), &["\"a\"", "announced"]);
        for code in [0, 4, 7, 8, 12] {
            assert_refused(&Gguf::new().meta("a", 9, array(code, count, &[0; 16])).bytes(), &["\"a\"", "announced"]);
        }
    }
}

#[test]
fn values_that_mean_nothing() {
    assert_refused(&Gguf::new().meta("a", 13, []).bytes(), &["\"a\"", "13 is no value type"]);
    assert_refused(&Gguf::new().meta("a", 9, array(13, 0, &[])).bytes(), &["\"a\"", "13 is no value type"]);
    assert_refused(&Gguf::new().meta("a", 9, array(9, 1 << 40, &[])).bytes(), &["\"a\"", "array of arrays"]);
    assert_refused(&Gguf::new().meta("a", 7, [2]).bytes(), &["\"a\"", "neither 0 nor 1"]);
    assert_refused(&Gguf::new().meta("a", 9, array(7, 2, &[1, 2])).bytes(), &["\"a\"", "neither 0 nor 1"]);
    let text = [&1_u64.to_le_bytes()[..], b"\xff"].concat();
    assert_refused(&Gguf::new().meta("a", 8, &text).bytes(), &["\"a\"", "UTF-8"]);
    assert_refused(&Gguf::new().meta("a", 9, array(8, 1, &text)).bytes(), &["\"a\"", "UTF-8"]);
    assert_refused(&Gguf::new().u32("a", 1).u32("a", 1).bytes(), &["\"a\"", "twice"]);
    for alignment in [0, 3, 1 << 21] {
        assert_refused(&Gguf::new().u32("general.alignment", alignment).bytes(), &["general.alignment"]);
    }
    assert_refused(&Gguf::new().text("general.alignment", "32").bytes(), &["general.alignment"]);
}

#[test]
fn tensors_that_do_not_fit() {
    let tensor = |dimensions: &[u64], code| Gguf::new().tensor("a", dimensions, code, vec![0; 64]).bytes();
    for dimensions in [&[u64::MAX, u64::MAX][..], &[1 << 32, 1 << 32], &[1 << 62], &[u64::MAX]] {
        assert_refused(&tensor(dimensions, F32), &["tensor \"a\"", "do not fit"]);
    }
    assert_refused(&tensor(&[17], F32), &["tensor \"a\"", "pass the file's end"]);
    assert_refused(&tensor(&[33, 1], 8), &["tensor \"a\"", "do not fit type Q8_0"]);
    assert_refused(&tensor(&[16, 2], 8), &["tensor \"a\"", "do not fit type Q8_0"]);
    for dimensions in [&[0][..], &[4, 0], &[0, u64::MAX]] {
        assert_refused(&tensor(dimensions, F32), &["tensor \"a\"", "dimension is 0"]);
    }
    for dimensions in [&[][..], &[1; 5]] {
        assert_refused(&tensor(dimensions, F32), &["tensor \"a\"", "dimensions"]);
    }
    let at = |offset: u64| {
        let mut gguf = Gguf::new().tensor("a", &[16], F32, vec![0; 64]).tensor("b", &[16], F32, vec![0; 64]);
        gguf.tensors[1].offset = Some(offset);
        gguf.bytes()
    };
    parse(&at(64)).unwrap();
    assert_refused(&at(32), &["tensor \"a\"", "overlap those of \"b\""]);
    assert_refused(&at(0), &["overlap"]);
    assert_refused(&at(65), &["tensor \"b\"", "not aligned"]);
    assert_refused(&at(96), &["tensor \"b\"", "pass the file's end"]);
    for offset in [1 << 63, u64::MAX - 31] {
        assert_refused(&at(offset), &["tensor \"b\""]);
    }
    let twice = Gguf::new().tensor("a", &[1], F32, vec![0; 4]).tensor("a", &[1], F32, vec![0; 4]).bytes();
    assert_refused(&twice, &["tensor \"a\"", "twice"]);
}

#[test]
fn large_vocabularies_are_kept_compactly() {
    let texts: Vec<u8> = (0..20_000).flat_map(|token| string(&format!("{token:x}"))).collect();
    let numbers = vec![1; 4 * 20_000];
    let gguf = Gguf::new().meta("texts", 9, array(8, 20_000, &texts)).meta("numbers", 9, array(5, 20_000, &numbers));
    assert_eq!(parse(&gguf.bytes()).unwrap().meta.len(), 2);
}

#[test]
fn long_names_are_cut_in_messages() {
    let name = "\u{1b}x".repeat(5_000);
    let message = parse(&Gguf::new().u32(&name, 1).u32(&name, 1).bytes()).unwrap_err().to_string();
    assert!(message.len() < 1000 && !message.contains('\u{1b}'), "{message}");
}
