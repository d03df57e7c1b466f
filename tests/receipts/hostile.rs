//! Hostile input.

use crate::{engine, llama, sample};
use intact::ReceiptError;
use intact::receipt::{Hex, MAX_BYTES, Receipt, Trace};

#[test]
fn nothing_but_canonical_json_is_read() {
    let mut engine = engine(&llama(), 1, |_| ());
    let good = String::from_utf8(sample(&mut engine, Trace::Tensors).to_bytes()).expect("text");
    let swap = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1).into_bytes()
    };
    let digest = &good[good.find("\"model\":\"").expect("model") + 9..][..64];
    let deep = "[".repeat(200_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("white space", b" \n".to_vec()),
        ("null", b"null".to_vec()),
        ("a list", b"[]".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("not UTF-8", [&good.as_bytes()[..40], b"\xff", &good.as_bytes()[40..]].concat()),
        ("a byte order mark", ["\u{feff}", &good].concat().into_bytes()),
        ("half", good.as_bytes()[..good.len() / 2].to_vec()),
        ("twice", good.repeat(2).into_bytes()),
        ("two newlines", format!("{good}\n").into_bytes()),
        ("a carriage return", swap("\n", "\r\n")),
        ("a zero byte", format!("{good}\0").into_bytes()),
        ("white space within", swap(":", ": ")),
        ("depth", deep.clone().into_bytes()),
        ("depth within", swap("\"contract\":1", &format!("\"contract\":{deep}"))),
        ("depth in an unknown field", swap("\"contract\":1", &format!("\"a\":{deep},\"contract\":1"))),
        ("an unknown field", swap("\"contract\":1", "\"contract\":1,\"host\":\"x\"")),
        ("an unknown field of the request", swap("\"max_tokens\":10", "\"logprobs\":1,\"max_tokens\":10")),
        ("an unknown field of an output", swap("\"finish\":", "\"extra\":1,\"finish\":")),
        ("a field twice", swap("\"contract\":1", "\"contract\":1,\"contract\":1")),
        ("a version twice", swap("\"receipt\":1", "\"receipt\":1,\"receipt\":1")),
        ("a missing field", swap("\"contract\":1,", "")),
        ("no version", swap("\"receipt\":1,", "")),
        ("a later version", swap("\"receipt\":1", "\"receipt\":2")),
        ("version 2^64", swap("\"receipt\":1", "\"receipt\":18446744073709551616")),
        ("version as a text", swap("\"receipt\":1", "\"receipt\":\"1\"")),
        ("version as a float", swap("\"receipt\":1", "\"receipt\":1.0")),
        ("a float", swap("\"max_tokens\":10", "\"max_tokens\":10.0")),
        ("an exponent", swap("\"max_tokens\":10", "\"max_tokens\":1e1")),
        ("1e400", swap("\"max_tokens\":10", "\"max_tokens\":1e400")),
        ("NaN", swap("\"max_tokens\":10", "\"max_tokens\":NaN")),
        ("a leading zero", swap("\"max_tokens\":10", "\"max_tokens\":010")),
        ("a minus", swap("\"max_tokens\":10", "\"max_tokens\":-10")),
        ("minus zero", swap("\"top_k\":0", "\"top_k\":-0")),
        ("2^32", swap("\"max_tokens\":10", "\"max_tokens\":4294967296")),
        ("seed 2^64", swap("\"seed\":30064771075", "\"seed\":18446744073709551616")),
        ("min_p beyond 1", swap("\"min_p\":10", "\"min_p\":65537")),
        ("n 0", swap("\"n\":3", "\"n\":0")),
        ("n 1025", swap("\"n\":3", "\"n\":1025")),
        ("null for a list", swap("\"outputs\":[", "\"outputs\":null,\"x\":[")),
        ("null for tensors", swap("\"tensors\":[[", "\"tensors\":null,\"x\":[[")),
        ("an unequal step", swap("\"tensors\":[[", "\"tensors\":[[\"0000000000000000\",")),
        ("an empty step", swap("\"tensors\":[[", "\"tensors\":[[],[")),
        ("stop ids that do not ascend", swap(",4000000000]", ",4000000000,4000000000]")),
        ("an escape", swap("\"contract\"", "\"\\u0063ontract\"")),
        ("an escape in a value", swap("\"length\"", "\"\\u006cength\"")),
        ("a lookalike", swap("\"contract\"", "\"сontract\"")),
        ("another ending", swap("\"length\"", "\"LENGTH\"")),
        ("another trace", swap("\"trace\":\"tensors\"", "\"trace\":\"all\"")),
        ("upper case", swap(digest, &digest.to_uppercase())),
        ("a short digest", swap(digest, &digest[1..])),
        ("a long digest", swap(digest, &format!("{digest}0"))),
        ("another alphabet", swap(digest, &"é".repeat(32))),
        ("wide digits", swap(digest, &"０".repeat(64))),
    ];
    for (name, bytes) in cases {
        let error = Receipt::parse(&bytes).expect_err(name).to_string();
        assert!(error.len() < 700 && !error.contains(char::is_control), "{name}: {error}");
    }
    let message = |from: &str, to: &str| Receipt::parse(&swap(from, to)).expect_err(to).to_string();
    assert_eq!(
        message("\"receipt\":1", "\"receipt\":7"),
        "receipt: version 7 is not 1; use a release of Intact that knows it"
    );
    assert!(message("\"max_tokens\":10", "\"max_tokens\":1e1").starts_with("max_tokens: invalid type: floating point"));
    assert!(message("\"top_p\":62000", "\"top_p\":65537").starts_with("request.top_p: 65537 is not within 0…65536"));
    assert!(message(digest, &digest[1..]).starts_with("model: invalid length 63, expected 64 lower-case"));
}

#[test]
fn long_lists_take_no_more_memory_than_their_text() {
    let many = |item: &str| {
        let text =
            "{\"contract\":1,\"model\":\"0000\",\"outputs\":[".to_owned() + &format!("{item},").repeat(2_000_000);
        text[..text.len() - 1].to_owned() + "],\"receipt\":1}"
    };
    for item in ["[]", "{}", "0", "\"\"", "null"] {
        assert!(matches!(Receipt::parse(many(item).as_bytes()), Err(ReceiptError::Malformed { .. })), "{item}");
    }
    let large = vec![b' '; MAX_BYTES + 1];
    assert_eq!(Receipt::parse(&large), Err(ReceiptError::TooLarge { most: MAX_BYTES }));
}

#[test]
fn digests_are_lower_case_digits() {
    let digest = Hex::<8>::parse("0123456789abcdef").expect("digits");
    assert_eq!(digest.0, [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
    assert_eq!(digest.to_string(), "0123456789abcdef");
    for wrong in
        ["", "0", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "0123456789abcdeg", "+123456789abcdef"]
    {
        assert_eq!(Hex::<8>::parse(wrong), None, "{wrong}");
    }
}
