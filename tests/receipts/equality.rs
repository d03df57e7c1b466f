//! Nothing but model and request changes a byte of a receipt.

use crate::document::{rechain, reseal};
use crate::{drain, engine, equal, llama, models, prompt, receipt, request, sample, steps};
use intact::core::kernels::Kernels;
use intact::core::ops::sample::Sampling;
use intact::model::canonical_json;
use intact::receipt::{MAX_BYTES, Receipt, Trace};
use intact::request::{Finish, Request};
use intact::{Options, RequestError};
use serde_json::{Value, json};

#[test]
fn options_and_company_change_no_byte() {
    let full = std::env::var_os("INTACT_TEST_FULL").is_some();
    for (turn, path) in models().into_iter().enumerate().filter(|(i, _)| full || i % 4 == 1) {
        let trace = [Trace::Tensors, Trace::Logits][turn / 4 % 2];
        let requests: Vec<Request> = (0..5)
            .map(|i| request(prompt(i, 1 + (i as usize * 17) % 40), [0, 52_429][i as usize % 2], 1 + i % 3))
            .collect();
        let alone = requests.iter().map(|request| receipt(&mut engine(&path, 1, |_| ()), request.clone(), trace));
        let alone: Vec<Receipt> = alone.collect();
        // Threads, tokens per step, sequences per step, positions per page and in all: the last two lots evict.
        let options = [(2, 512, 256, 64, 4096), (3, 7, 2, 5, 4096), (2, 16, 16, 4, 96), (1, 5, 16, 3, 60)];
        let all = Kernels::available();
        for (i, (threads, chunk, max_sequences, page, kv_tokens)) in options.into_iter().enumerate() {
            let kernels = all[(i + turn) % all.len()];
            let mut engine = engine(&path, threads, |options| {
                *options = Options { kernels, chunk, max_sequences, page, kv_tokens, share: page };
            });
            let mut ids = Vec::new();
            for (request, late) in requests.iter().zip([false, true].into_iter().cycle()) {
                ids.push(engine.add_with_receipt(request.clone(), trace).expect("accepted"));
                if late {
                    engine.step().expect("runs");
                }
            }
            // A request without a receipt among them.
            let plain = engine.add(requests[4].clone()).expect("accepted");
            drain(&mut engine);
            for (id, alone) in ids.into_iter().zip(&alone) {
                let found = engine.take_receipt(id).expect("a receipt");
                assert!(found.to_bytes() == alone.to_bytes(), "{}: options {i}: {:?}", path.display(), found.request);
                assert_eq!(engine.take_receipt(id), None, "taken twice");
                if i < 2 {
                    assert_eq!(engine.verify(&found, None), Ok(equal(&found)), "{}: options {i}", path.display());
                }
            }
            assert_eq!(engine.take_receipt(plain), None);
        }
    }
}

#[test]
fn a_cancelled_output_is_the_beginning_of_the_whole() {
    let mut engine = engine(&llama(), 2, |options| (options.page, options.kv_tokens) = (4, 120));
    for trace in [Trace::Logits, Trace::Tensors] {
        let asked = request(prompt(2, 20), 52_429, 3);
        let whole = receipt(&mut engine, asked.clone(), trace);
        let id = engine.add_with_receipt(asked, trace).expect("accepted");
        let mut lengths = [0; 3];
        while lengths.iter().sum::<usize>() < 13 {
            for event in engine.step().expect("runs") {
                lengths[event.stream as usize] += 1;
            }
            if lengths[1] == 3 {
                engine.cancel(id, Some(1));
            }
            assert_eq!(engine.take_receipt(id), None, "taken before the end");
        }
        engine.cancel(id, None);
        assert!(engine.idle());
        let cancelled = engine.take_receipt(id).expect("a receipt");
        let mut cut = whole.clone();
        lengths.into_iter().enumerate().for_each(|(stream, length)| cut.cut(stream, length));
        assert_eq!(lengths[1], 3);
        assert_eq!(cancelled, cut);
        assert_eq!(engine.verify(&cancelled, None), Ok(equal(&cancelled)));
        for stream in 0..4 {
            cut.cut(stream, 0);
            cut.cut(stream, 5);
        }
        assert_eq!((steps(&cut), Receipt::parse(&cut.to_bytes())), (0, Ok(cut.clone())));
        assert_eq!(engine.verify(&cut, None), Ok(equal(&cut)));
        let mut same = whole.clone();
        same.cut(0, whole.outputs[0].ids.len());
        assert_eq!(same, whole);
    }
}

#[test]
fn outputs_end_where_the_context_does() {
    let mut engine = engine(&llama(), 1, |_| ());
    let context = engine.model().model().context as usize;
    let mut asked = request(prompt(3, context - 3), 0, 2);
    asked.max_tokens = 100;
    let whole = receipt(&mut engine, asked, Trace::Logits);
    assert_eq!(whole.outputs[1].ids.len(), 4);
    assert_eq!(engine.verify(&whole, None), Ok(equal(&whole)));
    let mut value: Value = serde_json::from_slice(&whole.to_bytes()).expect("JSON");
    value["request"]["max_tokens"] = json!(4);
    rechain(&mut value, &llama());
    reseal(&mut value);
    assert_eq!(
        engine.verify(&Receipt::parse(canonical_json(&value).as_bytes()).expect("reads"), None),
        Ok(equal(&whole))
    );
}

#[test]
fn a_busy_engine_verifies() {
    let mut engine = engine(&llama(), 1, |options| options.kv_tokens = 64);
    let known = receipt(&mut engine, request(prompt(1, 9), 0, 1), Trace::Logits);
    let expected = receipt(&mut engine, request(prompt(7, 30), 52_429, 1), Trace::Logits);
    let id = engine.add_with_receipt(request(prompt(7, 30), 52_429, 1), Trace::Logits).expect("accepted");
    engine.step().expect("runs");
    let error = RequestError::CacheTooSmall { tokens: 18, capacity: 64 };
    assert_eq!(engine.verify(&known, None), Err(error), "the one page is taken");
    drain(&mut engine);
    assert_eq!(engine.verify(&known, None), Ok(equal(&known)));
    assert_eq!(engine.take_receipt(id), Some(expected));
}

#[test]
fn a_receipt_that_nobody_could_read_is_not_begun() {
    let mut engine = engine(&llama(), 1, |_| ());
    let mut asked = request(prompt(1, 9), 0, 1024);
    asked.max_tokens = u32::MAX;
    let refusal = engine.add_with_receipt(asked.clone(), Trace::Tensors);
    assert!(matches!(refusal, Err(RequestError::ReceiptTooLarge { most: MAX_BYTES, .. })), "{refusal:?}");
    let id = engine.add(asked.clone()).expect("accepted without a receipt");
    engine.cancel(id, None);
    // One of its outputs is no larger than its share of what was feared.
    let Err(RequestError::ReceiptTooLarge { bytes, .. }) = refusal else { panic!("{refusal:?}") };
    let one = receipt(&mut engine, Request { n: 1, ..asked }, Trace::Tensors).to_bytes().len();
    assert!(one <= bytes / 1024 + 1024 && one > bytes / 1200, "{one} bytes, {bytes} for 1024 outputs");
}

#[test]
fn finishes_are_those_of_the_events() {
    let mut engine = engine(&llama(), 1, |_| ());
    let receipt = sample(&mut engine, Trace::Logits);
    let asked = &receipt.request;
    let sampling = Sampling {
        temperature: asked.temperature,
        top_k: asked.top_k,
        top_p: asked.top_p,
        min_p: asked.min_p,
        seed: asked.seed,
    };
    let (prompt, stop_ids) = (asked.prompt.clone(), asked.stop_ids.iter().rev().copied().collect());
    engine
        .add(Request {
            prompt,
            max_tokens: asked.max_tokens,
            sampling,
            n: asked.n,
            stop_ids,
            logprobs: None,
            first_step: 0,
        })
        .expect("accepted");
    let mut events = Vec::new();
    while !engine.idle() {
        events.extend(engine.step().expect("runs"));
    }
    for (stream, output) in receipt.outputs.iter().enumerate() {
        let mine: Vec<_> = events.iter().filter(|event| event.stream as usize == stream).collect();
        assert_eq!(output.ids, mine.iter().map(|event| event.token).collect::<Vec<_>>());
        let finish = mine.last().and_then(|event| event.finish);
        assert!(matches!(finish, Some(Finish::Stop | Finish::Length)));
        assert_eq!(output.finish, finish.into());
    }
}
