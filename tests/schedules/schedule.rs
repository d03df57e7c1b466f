//! Schedules: everything follows from the seed.

use crate::random::Random;
use crate::requests::{REQUESTS, TEXTS};
use intact::Options;
use intact::core::kernels::Kernels;
use std::fmt;

/// The largest number of threads that a schedule asks for.
pub(crate) const MAX_THREADS: usize = 3;

/// How an engine runs.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) threads: usize,
    pub(crate) options: Options,
}

/// One thing that happens to an engine.
pub(crate) enum Action {
    /// The request of this number in the library arrives.
    Add(usize),
    /// So many steps are run.
    Step(usize),
    /// The request that arrived as the `arrival`-th, or one of its continuations, is cancelled.
    Cancel { arrival: usize, stream: Option<u32> },
    /// The logits of the first `length` tokens of a text are asked for.
    Logits { text: usize, length: usize },
    /// The engine is dropped; what is unfinished goes on in another.
    Replace(Setup),
    /// The engine goes on with another executor: on a device, or on the CPU for none.
    Move(Option<usize>),
}

/// What happens, in order. Afterwards all that is unfinished runs to its end.
pub(crate) struct Schedule {
    pub(crate) setup: Setup,
    pub(crate) actions: Vec<Action>,
}

impl Setup {
    fn new(random: &mut Random) -> Self {
        // Sets differ between machines; the words drawn do not, so that the rest of a schedule is the same. The first
        // is the reference, which is slow, and ran every request alone.
        let sets = Kernels::available();
        let (any, word) = (random.one_in(8), random.below(1 << 16));
        let kernels = if any { sets[word % sets.len()] } else { sets[sets.len() - 1 - word % sets.len().div_ceil(2)] };
        let threads = if random.one_in(10) { 2 + random.below(MAX_THREADS - 1) } else { 1 };
        let options = Options {
            kernels,
            chunk: *random.pick(&[1, 2, 3, 5, 8, 16, 64, 512]),
            page: *random.pick(&[1, 2, 3, 4, 7, 16, 64]),
            share: *random.pick(&[1, 16, 256]),
            kv_tokens: match random.below(4) {
                0 => 4096,
                1 => 130 + random.below(100),
                _ => 24 + random.below(60),
            },
            max_sequences: *random.pick(&[1, 2, 3, 5, 256]),
        };
        Self { threads, options }
    }
}

impl Schedule {
    /// The schedule of `seed` for a model of this context and so many devices.
    pub(crate) fn new(seed: u64, context: usize, devices: usize) -> Self {
        let mut random = Random::new(seed);
        let setup = Setup::new(&mut random);
        let (mut actions, mut arrived) = (Vec::new(), 0);
        let arrivals = 2 + random.below(7);
        while arrived < arrivals || random.one_in(2) {
            actions.push(match random.below(24) {
                0..10 if arrived < arrivals => {
                    arrived += 1;
                    Action::Add(random.below(REQUESTS))
                }
                10..13 if arrived > 0 => {
                    let stream = [None, Some(random.below(5) as u32)][random.below(2)];
                    Action::Cancel { arrival: random.below(arrived), stream }
                }
                13 => Action::Logits { text: random.below(TEXTS), length: 1 + random.below(40.min(context)) },
                14 if arrived > 1 => Action::Replace(Setup::new(&mut random)),
                15..19 if devices > 0 => Action::Move(random.below(devices + 1).checked_sub(1)),
                _ => Action::Step(1 + random.below(6)),
            });
        }
        Self { setup, actions }
    }

    /// Numbers of the requests that arrive.
    pub(crate) fn requests(&self) -> impl Iterator<Item = usize> {
        self.actions.iter().filter_map(|action| if let Action::Add(number) = action { Some(*number) } else { None })
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { kernels, chunk, page, kv_tokens, max_sequences, share } = self.options;
        let (threads, kernels) = (self.threads, kernels.name);
        write!(
            f,
            "{threads} threads, {kernels} kernels, chunk {chunk}, page {page}, kv_tokens {kv_tokens}, share {share}, "
        )?;
        write!(f, "max_sequences {max_sequences}")
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(number) => write!(f, "add request {number}"),
            Self::Step(count) => write!(f, "step {count} times"),
            Self::Cancel { arrival, stream: None } => write!(f, "cancel arrival {arrival}"),
            Self::Cancel { arrival, stream: Some(stream) } => write!(f, "cancel arrival {arrival}, stream {stream}"),
            Self::Logits { text, length } => write!(f, "logits of {length} tokens of text {text}"),
            Self::Move(None) => write!(f, "move to the CPU"),
            Self::Move(Some(device)) => write!(f, "move to device {device}"),
            Self::Replace(setup) => write!(f, "replace the engine: {setup}"),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.setup)?;
        self.actions.iter().enumerate().try_for_each(|(i, action)| writeln!(f, "{i:4}. {action}"))
    }
}
