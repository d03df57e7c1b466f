//! The requests that schedules are made of: a numbered library, so that each runs alone once.

use crate::random::Random;
use intact::core::ops::sample::Sampling;
use intact::request::Request;

/// Requests in the library.
pub(crate) const REQUESTS: usize = 80;
/// Sequences whose beginnings prompts share.
pub(crate) const TEXTS: usize = 2;
/// Token ids stay below this; every model's vocabulary is larger.
const IDS: usize = 190;

fn tokens(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.below(IDS) as u32).collect()
}

/// Text `number`, as long as the context.
pub(crate) fn text(number: usize, context: usize) -> Vec<u32> {
    tokens(&mut Random::new(number as u64), context)
}

/// Request `number` of the library for a model of this context.
pub(crate) fn request(number: usize, context: usize) -> Request {
    let mut random = Random::new(1_000_000 + number as u64);
    let length = match random.below(16) {
        0 => 1,
        1..=10 => 2 + random.below(12),
        11..=14 => 8 + random.below(40),
        _ => context - random.below(6),
    };
    let shared = if random.one_in(2) { length } else { random.below(length + 1) };
    let mut prompt = text(random.below(TEXTS), context)[..shared].to_vec();
    prompt.extend(tokens(&mut random, length - shared));
    let sampling = Sampling {
        temperature: *random.pick(&[0, 0, 0, 32_768, 65_536, 150_000]),
        top_k: *random.pick(&[0, 0, 2, 40]),
        top_p: *random.pick(&[65_536, 62_000, 30_000]),
        min_p: *random.pick(&[0, 3_000]),
        seed: random.word(),
    };
    let max_tokens = 1 + random.below(16) as u32;
    let n = *random.pick(&[1, 1, 2, 3, 4]);
    let stops = *random.pick(&[0, 0, 3, 20]);
    let stop_ids = tokens(&mut random, stops);
    let logprobs = *random.pick(&[None, Some(0), Some(3)]);
    Request { prompt, max_tokens, sampling, n, stop_ids, logprobs, first_step: 0 }
}

/// What is left of one continuation after `done` of its tokens: a prompt that goes on with them. Exact for greedy
/// choice only, because random numbers count from the first token of a request.
pub(crate) fn rest(request: &Request, done: &[u32]) -> Request {
    let prompt = [&request.prompt, done].concat();
    Request { prompt, max_tokens: request.max_tokens - done.len() as u32, n: 1, ..request.clone() }
}
