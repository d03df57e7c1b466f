//! A receipt on its way: the engine tells every token as it comes.

use super::chain::{self, Step};
use super::format::{Ending, MAX_BYTES, OutputRecord, Receipt, RequestRecord, Trace, VERSION};
use super::hex::{Hash, Short};
use super::probe::writes;
use super::tensors::Tensors;
use crate::error::RequestError;
use crate::request::{Finish, Request};
use intact_core::CONTRACT_VERSION;
use intact_core::certify::Certified;

pub(crate) struct Recorder {
    receipt: Receipt,
    /// Where the chain of each output begins.
    origins: Vec<Hash>,
}

impl Recorder {
    /// The beginning of a receipt for a request that has been checked.
    pub(crate) fn new(model: &Certified, digest: Hash, request: &Request, trace: Trace) -> Result<Self, RequestError> {
        let model = model.model();
        let per_step = if trace == Trace::Tensors { writes(model).count() } else { 0 };
        check_size(request, request.most_tokens(model.context as usize), per_step)?;
        let tensors = (trace == Trace::Tensors).then(Tensors::default);
        let output = OutputRecord { chain: Vec::new(), finish: Ending::Cancelled, ids: Vec::new(), tensors };
        let receipt = Receipt {
            contract: CONTRACT_VERSION,
            model: digest,
            outputs: vec![output; request.n as usize],
            receipt: VERSION,
            request: RequestRecord::new(request),
            sha256: Hash::default(),
            trace,
        };
        let head = receipt.head();
        let origins = (0..request.n).map(|stream| chain::origin(&head, stream)).collect();
        Ok(Self { receipt, origins })
    }

    pub(crate) fn trace(&self) -> Trace {
        self.receipt.trace
    }

    /// Takes the next token of an output.
    pub(crate) fn push(&mut self, stream: u32, token: u32, logits: Hash, tensors: &[Short], finish: Option<Finish>) {
        let (output, origin) = (&mut self.receipt.outputs[stream as usize], &self.origins[stream as usize]);
        let index = output.ids.len() as u32;
        let position = self.receipt.request.prompt.len() as u32 + index - 1;
        let before = *output.chain.last().unwrap_or(origin);
        output.chain.push(chain::link(origin, &before, &Step { index, position, token, logits, tensors }));
        output.ids.push(token);
        output.finish = finish.into();
        if let Some(all) = &mut output.tensors {
            all.push(tensors);
        }
    }

    pub(crate) fn finish(mut self) -> Receipt {
        self.receipt.sha256 = self.receipt.seal();
        self.receipt
    }
}

/// A receipt that could grow beyond what can be read is refused before anything is computed.
fn check_size(request: &Request, steps: usize, digests_per_step: usize) -> Result<(), RequestError> {
    // Bytes in JSON, with what stands between: a token id, a chain entry, a tensor digest, the rest of a step, of an
    // output, and of the receipt.
    const ID: usize = 11;
    const LINK: usize = 67;
    const DIGEST: usize = 19;
    const STEP: usize = 3;
    const OUTPUT: usize = 80;
    const RECEIPT: usize = 1024;
    let step = ID + LINK + DIGEST * digests_per_step + STEP;
    let output = steps.saturating_mul(step).saturating_add(OUTPUT);
    let lists = (request.prompt.len() + request.stop_ids.len()).saturating_mul(ID);
    let bytes = output.saturating_mul(request.n as usize).saturating_add(lists).saturating_add(RECEIPT);
    if bytes > MAX_BYTES { Err(RequestError::ReceiptTooLarge { bytes, most: MAX_BYTES }) } else { Ok(()) }
}
