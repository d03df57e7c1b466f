//! Plays a schedule and compares every event with what the request gives alone.

use crate::Pools;
use crate::requests::{rest, text};
use crate::schedule::{Action, Schedule, Setup};
use crate::solo::{Alone, Solo};
use crate::tally::{Seen, Tally};
use intact::core::cpu::Cpu;
use intact::core::executor::Executor;
use intact::core::storage::heap;
use intact::request::{Event, Finish, Request, RequestId};
use intact::{Engine, RequestError};
use intact_gpu::{Device, Gpu};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A request that arrived.
struct Arrival {
    alone: Rc<Alone>,
    streams: Vec<Stream>,
}

/// A continuation of one.
#[derive(Clone, Copy)]
struct Stream {
    /// Events that came.
    done: usize,
    /// Whether more are to come.
    open: bool,
    /// Request and stream in the present engine, where it has them.
    place: Option<(RequestId, u32)>,
    /// Whether the present engine generated for it.
    started: bool,
}

struct Play<'a> {
    solo: &'a mut Solo,
    pools: &'a Pools,
    devices: &'a [Device],
    /// Which of them the engine runs on.
    place: Option<usize>,
    setup: Setup,
    engine: Engine,
    arrivals: Vec<Arrival>,
    /// Steps that the present engine may take at most: each advances its oldest continuation by a token.
    steps_left: usize,
    tally: Tally,
}

/// Plays `schedule`, then all that is unfinished to its end.
///
/// # Errors
/// The first thing that is not as it is alone.
pub(crate) fn play(schedule: &Schedule, solo: &mut Solo, pools: &Pools, devices: &[Device]) -> Result<Tally, String> {
    let engine = schedule.setup.engine(solo, pools);
    let (setup, tally) = (schedule.setup, Tally::default());
    let (place, arrivals, steps_left) = (None, Vec::new(), 0);
    let mut play = Play { solo, pools, devices, place, setup, engine, arrivals, steps_left, tally };
    for (i, action) in schedule.actions.iter().enumerate() {
        play.act(action).map_err(|fault| format!("action {i}, {action}: {fault}"))?;
    }
    play.finish().map_err(|fault| format!("after the last action: {fault}"))?;
    Ok(play.tally)
}

impl Setup {
    fn engine(&self, solo: &Solo, pools: &Pools) -> Engine {
        Engine::new(&solo.loaded, pools.of(self.threads), self.options)
    }

    fn pages(&self) -> usize {
        self.options.kv_tokens.div_ceil(self.options.page)
    }

    /// Positions that the cache holds.
    fn capacity(&self) -> usize {
        self.pages() * self.options.page
    }
}

impl Play<'_> {
    fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Add(number) => {
                let alone = self.solo.run(*number);
                let stream = Stream { done: 0, open: true, place: None, started: false };
                self.arrivals.push(Arrival { streams: vec![stream; alone.streams.len()], alone });
                self.begin(self.arrivals.len() - 1)
            }
            Action::Step(count) => (0..*count).try_for_each(|_| self.step()),
            Action::Cancel { arrival, stream } => {
                self.cancel(*arrival, *stream);
                Ok(())
            }
            Action::Logits { text, length } => self.logits(*text, *length),
            Action::Replace(setup) => self.replace(*setup),
            Action::Move(place) => self.move_to(*place),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        while !self.engine.idle() {
            self.step()?;
        }
        let lost = self.arrivals.iter().position(|arrival| arrival.streams.iter().any(|stream| stream.open));
        if let Some(arrival) = lost {
            return Err(format!("arrival {arrival} has no end, and the engine is idle"));
        }
        // A page that was not given back would be missing here.
        self.logits(0, self.setup.capacity().min(self.solo.context()))?;
        self.step()
    }

    /// Hands `request` to the engine; `None` where it is, rightly, refused.
    fn add(&mut self, request: Request) -> Result<Option<RequestId>, String> {
        let tokens = (request.prompt.len() + request.max_tokens as usize - 1).min(self.solo.context());
        let capacity = self.setup.capacity();
        let (all, n) = (request.prompt.len() + request.max_tokens as usize, request.n as usize);
        let fits = tokens <= capacity;
        self.tally.count(Seen::Refused, !fits);
        match self.engine.add(request) {
            Ok(id) if fits => {
                self.steps_left += all * n;
                Ok(Some(id))
            }
            Err(RequestError::CacheTooSmall { tokens: t, capacity: c }) if !fits && (t, c) == (tokens, capacity) => {
                Ok(None)
            }
            other => Err(format!("{other:?} for {tokens} tokens in a cache of {capacity}")),
        }
    }

    /// Begins the open continuations of an arrival in the present engine.
    fn begin(&mut self, arrival: usize) -> Result<(), String> {
        let request = self.arrivals[arrival].alone.request.clone();
        let id = self.add(request)?;
        for (stream, number) in self.arrivals[arrival].streams.iter_mut().zip(0..) {
            if !stream.open {
                id.into_iter().for_each(|id| self.engine.cancel(id, Some(number)));
                continue;
            }
            *stream = Stream { done: 0, open: id.is_some(), place: id.map(|id| (id, number)), started: false };
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let idle = self.engine.idle();
        let events = self.engine.step().map_err(|error| error.to_string())?;
        if idle {
            return if events.is_empty() { Ok(()) } else { Err(format!("{events:?} from an idle engine")) };
        }
        self.steps_left = self.steps_left.checked_sub(1).ok_or("the engine makes no progress")?;
        let (mut prefilled, mut decoded, mut requests) = (false, false, BTreeMap::new());
        for event in events {
            let (arrival, started) = self.check(&event)?;
            let prompt = self.arrivals[arrival].alone.request.prompt.len();
            // Later continuations may have nearly all of their prompt from the first one.
            prefilled |= !started && event.stream == 0 && prompt > 1;
            decoded |= started;
            let (count, pages) = requests.entry(event.request).or_insert((0, 0));
            (*count, *pages) = (*count + 1, (prompt - 1) / self.setup.options.page);
        }
        self.tally.count(Seen::PrefillBesideDecode, prefilled && decoded);
        self.tally.count(Seen::SharedStep, requests.len() > 1);
        self.tally.count(Seen::SharedPrompt, requests.values().any(|&(count, pages)| count > 1 && pages > 0));
        self.tally.count(Seen::Eviction, self.filled() > self.setup.pages());
        Ok(())
    }

    /// Compares an event with its like alone; the arrival it belongs to, and whether it had events in this engine.
    fn check(&mut self, event: &Event) -> Result<(usize, bool), String> {
        let place = Some((event.request, event.stream));
        let mut all =
            self.arrivals.iter().enumerate().flat_map(|(i, arrival)| (0..arrival.streams.len()).map(move |s| (i, s)));
        let found = all.find(|&(i, s)| self.arrivals[i].streams[s].place == place);
        let (i, s) = found.ok_or_else(|| format!("{event:?} belongs to nothing"))?;
        let Arrival { alone, streams } = &mut self.arrivals[i];
        let stream = &mut streams[s];
        let found = Event { request: 0, stream: s as u32, ..event.clone() };
        let expected = alone.streams[s].get(stream.done);
        if !stream.open || Some(&found) != expected {
            let (done, open) = (stream.done, stream.open);
            return Err(format!(
                "arrival {i}, stream {s} (open: {open}), event {done}:\n  {found:?}\n  {expected:?} alone"
            ));
        }
        let started = std::mem::replace(&mut stream.started, true);
        stream.done += 1;
        stream.open = found.finish.is_none();
        let full = alone.request.prompt.len() + stream.done > self.solo.context();
        self.tally.count(Seen::Event, true);
        self.tally.count(Seen::Stopped, found.finish == Some(Finish::Stop));
        self.tally.count(Seen::ContextEnded, found.finish == Some(Finish::Length) && full);
        Ok((i, started))
    }

    /// Pages that the unfinished continuations with events in this engine have filled, all of a prompt that can be
    /// shared counted once.
    fn filled(&self) -> usize {
        let page = self.setup.options.page;
        let mut by_request: BTreeMap<RequestId, (usize, usize)> = BTreeMap::new();
        for Arrival { alone, streams } in &self.arrivals {
            let prompt = alone.request.prompt.len();
            for stream in streams.iter().filter(|stream| stream.open && stream.started) {
                let Some((id, _)) = stream.place else { continue };
                let (shared, own) = by_request.entry(id).or_default();
                // The token that came last is not cached yet.
                *shared = (prompt - 1) / page;
                *own += (prompt + stream.done - 1).div_ceil(page) - *shared;
            }
        }
        by_request.values().map(|(shared, own)| shared + own).sum()
    }

    fn cancel(&mut self, arrival: usize, stream: Option<u32>) {
        let streams = &mut self.arrivals[arrival].streams;
        let gone = match stream {
            None => {
                let ids: BTreeSet<RequestId> = streams.iter().filter_map(|s| s.place).map(|(id, _)| id).collect();
                ids.into_iter().for_each(|id| self.engine.cancel(id, None));
                &mut streams[..]
            }
            Some(number) => match streams.get_mut(number as usize) {
                Some(stream) => {
                    stream.place.into_iter().for_each(|(id, number)| self.engine.cancel(id, Some(number)));
                    std::slice::from_mut(stream)
                }
                None => {
                    // A continuation that there is not: nothing may happen.
                    let ids = streams.iter().filter_map(|s| s.place).map(|(id, _)| id);
                    ids.for_each(|id| self.engine.cancel(id, stream));
                    &mut []
                }
            },
        };
        for stream in gone {
            self.tally.count(Seen::CancelledUnstarted, stream.open && !stream.started);
            self.tally.count(Seen::CancelledStarted, stream.open && stream.started);
            stream.open = false;
        }
    }

    fn logits(&mut self, number: usize, length: usize) -> Result<(), String> {
        let expected = self.solo.logits(number);
        let vocabulary = self.engine.model().model().vocabulary;
        let (mut row_number, mut differing) = (0, None);
        let tokens = &text(number, self.solo.context())[..length];
        let result = self.engine.logits(tokens, &mut |row| {
            if differing.is_none() && expected[row_number * vocabulary..][..vocabulary] != *row {
                differing = Some(row_number);
            }
            row_number += 1;
        });
        let (idle, fits) = (self.engine.idle(), length <= self.setup.capacity());
        match (result, differing) {
            (Ok(()), None) if row_number == length && fits => self.tally.count(Seen::LogitsBesideRequests, !idle),
            (Err(RequestError::CacheTooSmall { .. }), None) if !(idle && fits) => {
                self.tally.count(Seen::LogitsRefused, true);
            }
            (result, _) => {
                return Err(format!("{row_number} of {length} rows of logits, {differing:?} differs: {result:?}"));
            }
        }
        Ok(())
    }

    /// Goes on with another executor.
    fn move_to(&mut self, place: Option<usize>) -> Result<(), String> {
        let (model, options) = (self.engine.certified(), self.setup.options);
        let executor: Box<dyn Executor> = match place {
            None => Box::new(Cpu::new(model, options.kernels, self.pools.of(self.setup.threads), options.page, heap)),
            Some(i) => {
                let gpu = Gpu::new(self.devices[i].clone(), model, options.page);
                Box::new(gpu.map_err(|fault| fault.to_string())?)
            }
        };
        let started = self.arrivals.iter().flat_map(|a| &a.streams).any(|stream| stream.open && stream.started);
        self.tally.count(Seen::MovedToDevice, started && place.is_some());
        self.tally.count(Seen::MovedFromDevice, started && self.place.is_some() && place != self.place);
        self.place = place;
        self.engine.move_to(executor).map_err(|error| error.to_string())
    }

    /// Drops the engine; what is unfinished goes on in another.
    fn replace(&mut self, setup: Setup) -> Result<(), String> {
        (self.setup, self.engine, self.steps_left) = (setup, setup.engine(self.solo, self.pools), 0);
        self.place = None;
        for arrival in 0..self.arrivals.len() {
            self.arrivals[arrival].streams.iter_mut().for_each(|stream| stream.place = None);
            let Arrival { alone, streams } = &self.arrivals[arrival];
            if !streams.iter().any(|stream| stream.open) {
                continue;
            }
            if alone.request.sampling.temperature > 0 {
                streams.iter().for_each(|stream| self.tally.count(Seen::BegunAgain, stream.open && stream.done > 0));
                self.begin(arrival)?;
                continue;
            }
            let alone = Rc::clone(alone);
            for s in 0..alone.streams.len() {
                let stream = self.arrivals[arrival].streams[s];
                if stream.open {
                    let done: Vec<u32> = alone.streams[s][..stream.done].iter().map(|event| event.token).collect();
                    let place = self.add(rest(&alone.request, &done))?.map(|id| (id, 0));
                    self.tally.count(Seen::Continued, place.is_some() && stream.done > 0);
                    self.arrivals[arrival].streams[s] =
                        Stream { open: place.is_some(), place, started: false, ..stream };
                }
            }
        }
        Ok(())
    }
}
