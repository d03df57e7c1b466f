//! What every request and text gives alone: one thread, the reference kernels, the plain options.

use crate::requests::{request, text};
use crate::schedule::Schedule;
use intact::core::cpu::Pool;
use intact::core::kernels::reference;
use intact::request::{Event, Request};
use intact::{Engine, Loaded, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// A request with the events of each of its continuations; their request ids are 0.
pub(crate) struct Alone {
    pub(crate) request: Request,
    pub(crate) streams: Vec<Vec<Event>>,
}

/// One model with the results of plain runs, computed when they are first asked for.
pub(crate) struct Solo {
    pub(crate) loaded: Loaded,
    pool: Arc<Pool>,
    runs: BTreeMap<usize, Rc<Alone>>,
    logits: BTreeMap<usize, Rc<[i32]>>,
}

impl Solo {
    /// The model in directory `path`; `pool` is of one thread.
    pub(crate) fn open(path: &Path, pool: &Arc<Pool>) -> Self {
        let loaded = Loaded::open(path, pool).expect("a model of the oracle");
        Self { loaded, pool: Arc::clone(pool), runs: BTreeMap::new(), logits: BTreeMap::new() }
    }

    pub(crate) fn context(&self) -> usize {
        self.loaded.certified.model().context as usize
    }

    fn engine(&self) -> Engine {
        let options = Options::new(&reference::KERNELS, self.context() as u32);
        Engine::new(&self.loaded, Arc::clone(&self.pool), options)
    }

    /// Request `number` alone.
    pub(crate) fn run(&mut self, number: usize) -> Rc<Alone> {
        if let Some(alone) = self.runs.get(&number) {
            return Rc::clone(alone);
        }
        let request = request(number, self.context());
        let mut streams = vec![Vec::new(); request.n as usize];
        let mut engine = self.engine();
        engine.add(request.clone()).expect("a valid request");
        while !engine.idle() {
            for event in engine.step().expect("enough memory") {
                streams[event.stream as usize].push(Event { request: 0, ..event });
            }
        }
        let alone = Rc::new(Alone { request, streams });
        self.runs.insert(number, Rc::clone(&alone));
        alone
    }

    /// The logits after every token of text `number`.
    pub(crate) fn logits(&mut self, number: usize) -> Rc<[i32]> {
        if let Some(logits) = self.logits.get(&number) {
            return Rc::clone(logits);
        }
        let mut logits = Vec::new();
        let tokens = text(number, self.context());
        self.engine().logits(&tokens, &mut |row| logits.extend_from_slice(row)).expect("a valid text");
        let logits: Rc<[i32]> = logits.into();
        self.logits.insert(number, Rc::clone(&logits));
        logits
    }

    /// The requests of a schedule, for people.
    pub(crate) fn describe(&self, schedule: &Schedule) -> String {
        let mut text = String::new();
        for number in schedule.requests().collect::<BTreeSet<_>>() {
            let request = request(number, self.context());
            writeln!(text, "request {number}: {} tokens; {request:?}", request.prompt.len()).expect("memory");
        }
        text
    }
}
