//! How often happened what the schedules are there for.

use std::collections::BTreeMap;

/// Something that a run of schedules has to have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// An event that was compared.
    Event,
    /// A step after which unfinished continuations have filled more pages than there are: some lost theirs, and are
    /// computed again.
    Eviction,
    /// A step that ended a prompt of several tokens, and generated for a continuation on its way.
    PrefillBesideDecode,
    /// A step that generated for several requests.
    SharedStep,
    /// A step that generated for several continuations of a prompt that fills a page.
    SharedPrompt,
    /// A continuation cancelled before its first token.
    CancelledUnstarted,
    /// A continuation cancelled after it.
    CancelledStarted,
    /// A request larger than the cache.
    Refused,
    /// A continuation taken up by another engine where it was.
    Continued,
    /// A continuation that another engine begins again, because random numbers count from its start.
    BegunAgain,
    /// A call for logits beside unfinished requests.
    LogitsBesideRequests,
    /// One for which too few pages were free.
    LogitsRefused,
    /// A continuation that ended with a stop id.
    Stopped,
    /// One that ended with the context.
    ContextEnded,
    /// A move to a device with unfinished continuations.
    MovedToDevice,
    /// A move from a device, likewise.
    MovedFromDevice,
}

impl Seen {
    const ALL: [Self; 16] = [
        Self::Event,
        Self::Eviction,
        Self::PrefillBesideDecode,
        Self::SharedStep,
        Self::SharedPrompt,
        Self::CancelledUnstarted,
        Self::CancelledStarted,
        Self::Refused,
        Self::Continued,
        Self::BegunAgain,
        Self::LogitsBesideRequests,
        Self::LogitsRefused,
        Self::Stopped,
        Self::ContextEnded,
        Self::MovedToDevice,
        Self::MovedFromDevice,
    ];
}

/// Counts of what was seen.
#[derive(Default, Debug)]
pub(crate) struct Tally(BTreeMap<Seen, u64>);

impl Tally {
    pub(crate) fn count(&mut self, seen: Seen, happened: bool) {
        if happened {
            *self.0.entry(seen).or_default() += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(&seen, count)| *self.0.entry(seen).or_default() += count);
    }

    /// What never happened. Where there are devices, that is of moves alone: far fewer schedules have them.
    pub(crate) fn missing(&self, devices: bool) -> Vec<Seen> {
        let of_moves = |seen: &Seen| [Seen::MovedToDevice, Seen::MovedFromDevice].contains(seen);
        Seen::ALL.into_iter().filter(|seen| of_moves(seen) == devices && !self.0.contains_key(seen)).collect()
    }
}
