//! What the caches hold about the beginning of a sequence, as data that every executor of the same model takes up again
//! (docs/STATE.md).

use crate::engine::Engine;
use crate::error::{RequestError, StateError};
use crate::receipt::{Hash, Hex, Trace};
use crate::request::{Request, RequestId, check_tokens};
use intact_core::CONTRACT_VERSION;
use intact_core::certify::Certified;
use intact_core::cpu::{Batch, Token};
use intact_core::fixed::dynscale;
use intact_core::program::Attention;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

/// The version of the file's layout.
pub const VERSION: u32 = 1;
/// What a file begins with.
const MAGIC: &[u8; 8] = b"intactKV";
/// Bytes before the tokens: magic, versions of layout and contract, model digest, tokens, bytes of the cache.
const HEADER: usize = 64;
/// Bytes after the cache: SHA-256 of all before.
const SEAL: usize = 32;
/// Tokens at most, as many as the longest context.
const MAX_TOKENS: u64 = 1 << 24;

/// Keys and values of the first tokens of a sequence.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    model: Hash,
    tokens: Vec<u32>,
    /// As a page of as many positions as there are tokens.
    cache: Vec<u8>,
}

impl State {
    /// The tokens whose keys and values these are.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The digest of the model.
    #[must_use]
    pub fn model(&self) -> Hash {
        self.model
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.cache.len()
    }

    /// The file in pieces, without its seal.
    fn parts(&self) -> [Vec<u8>; 2] {
        let mut head = Vec::with_capacity(HEADER + 4 * self.tokens.len());
        head.extend_from_slice(MAGIC);
        head.extend([VERSION, CONTRACT_VERSION].into_iter().flat_map(u32::to_le_bytes));
        head.extend(self.model.0);
        head.extend([self.tokens.len() as u64, self.cache.len() as u64].into_iter().flat_map(u64::to_le_bytes));
        let tokens = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        [head, tokens]
    }

    fn seal(parts: &[&[u8]]) -> [u8; SEAL] {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize().into()
    }

    /// Writes the file `path`, complete or not at all; one that exists is replaced.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: path.to_owned(), action: "write", source };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        let [head, tokens] = self.parts();
        let seal = Self::seal(&[&head, &tokens, &self.cache]);
        let written = File::create(&partial).and_then(|mut file| {
            [&head, &tokens, &self.cache, seal.as_slice()].into_iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&partial, path)).map_err(|error| {
            // What is left of it serves nobody.
            let _ = fs::remove_file(&partial);
            io(error)
        })
    }

    /// Reads the file `path`. Nothing is allocated before the file has proved its size.
    ///
    /// # Errors
    /// Any [`StateError`] but those of a model and a request.
    pub fn read(path: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Io { path: path.to_owned(), action: "read", source };
        let malformed = |problem: String| StateError::Malformed { path: path.to_owned(), problem };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut head = [0; HEADER];
        if length < (HEADER + SEAL) as u64 {
            return Err(malformed(format!("{length} bytes are fewer than any state has")));
        }
        file.read_exact(&mut head).map_err(io)?;
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        if !head.starts_with(MAGIC) {
            return Err(malformed("it does not begin as a state does".to_owned()));
        }
        for (what, found, supported) in [("layout", word(8), VERSION), ("contract", word(12), CONTRACT_VERSION)] {
            if found != supported {
                return Err(StateError::Version { path: path.to_owned(), what, found, supported });
            }
        }
        let (count, bytes) = (long(48), long(56));
        let expected = bytes.checked_add((HEADER + SEAL) as u64 + 4 * count.min(MAX_TOKENS));
        if count > MAX_TOKENS || expected != Some(length) {
            return Err(malformed(format!("{count} tokens and {bytes} bytes of cache do not make {length} bytes")));
        }
        let mut part = |bytes: u64| -> Result<Vec<u8>, StateError> {
            let mut out = Vec::new();
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            out.try_reserve_exact(bytes).map_err(|error| malformed(format!("{bytes} bytes: {error}")))?;
            out.resize(bytes, 0);
            file.read_exact(&mut out).map_err(io)?;
            Ok(out)
        };
        let (tokens, cache, seal) = (part(4 * count)?, part(bytes)?, part(SEAL as u64)?);
        if seal != Self::seal(&[&head, &tokens, &cache]) {
            return Err(malformed("its SHA-256 is not that of its content".to_owned()));
        }
        let tokens = tokens.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
        Ok(Self { model: Hex(std::array::from_fn(|i| head[16 + i])), tokens, cache })
    }

    /// Whether a model can go on from it: it is of that model, and everything in it is within the contract's ranges,
    /// which what executors add up relies on.
    fn check(&self, model: &Certified, digest: Hash) -> Result<(), StateError> {
        if self.model != digest {
            return Err(StateError::Model { found: self.model.to_string(), expected: digest.to_string() });
        }
        check_tokens(&self.tokens, model.model().vocabulary, model.model().context as usize)?;
        let outside = |what: &str| StateError::Content { problem: format!("{what} is outside the contract's range") };
        let mut rest = self.cache.as_slice();
        for a in model.attentions() {
            let entries = a.kv_heads * self.tokens.len();
            let mut parts = [[].as_slice(); 3];
            for (part, bytes) in parts.iter_mut().zip(entry(a)) {
                let split = entries.checked_mul(bytes).and_then(|bytes| rest.split_at_checked(bytes));
                let Some((now, later)) = split else {
                    return Err(StateError::Content { problem: "it has too few bytes for its tokens".to_owned() });
                };
                (*part, rest) = (now, later);
            }
            let [keys, values, scales] = parts;
            let wide = |bytes: &[u8; 2]| u32::from(i16::from_le_bytes(*bytes).unsigned_abs()) <= a.key_max;
            let narrow = |most: u32| move |&byte: &u8| u32::from(byte.cast_signed().unsigned_abs()) <= most;
            let fits = if a.key_max > 127 {
                keys.as_chunks::<2>().0.iter().all(wide)
            } else {
                keys.iter().all(narrow(a.key_max))
            };
            if !fits {
                return Err(outside("a key"));
            }
            if !values.iter().all(narrow(a.scoring.value_max)) {
                return Err(outside("a value"));
            }
            let most = [a.key_max, a.scoring.value_max].map(|xmax| dynscale(1 << 31, xmax).1);
            let scale = |[dk, tk, dv, tv]: &[u8; 4]| {
                *dk >= 128 && *dv >= 128 && u32::from(*tk) <= most[0] && u32::from(*tv) <= most[1]
            };
            if !scales.as_chunks::<4>().0.iter().all(scale) {
                return Err(outside("a scale"));
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(StateError::Content { problem: "it has more bytes than its tokens need".to_owned() })
    }

    /// How many of the first of `tokens` it knows.
    fn common(&self, tokens: &[u32]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }
}

/// Bytes of keys, values and scales of one head at one position.
fn entry(a: &Attention) -> [usize; 3] {
    [if a.key_max > 127 { 2 * a.head_width } else { a.head_width }, a.head_width, 4]
}

/// Bytes of so many positions in all caches.
pub(crate) fn size(attentions: &[Attention], positions: usize) -> usize {
    attentions.iter().map(|a| a.kv_heads * positions * entry(a).iter().sum::<usize>()).sum()
}

/// Where the positions of page `index` stand in a state of `tokens` positions, in the page, and how many bytes they are.
fn pieces(
    attentions: &[Attention], tokens: usize, page: usize, index: usize, mut each: impl FnMut(usize, usize, usize),
) {
    let (first, count) = (index * page, page.min(tokens - index * page));
    let (mut whole, mut part) = (0, 0);
    for a in attentions {
        for bytes in entry(a) {
            for head in 0..a.kv_heads {
                each(whole + (head * tokens + first) * bytes, part + head * page * bytes, count * bytes);
            }
            whole += a.kv_heads * tokens * bytes;
            part += a.kv_heads * page * bytes;
        }
    }
}

impl Engine {
    /// What the caches hold after `tokens`; what `from` knows of them is not computed again.
    ///
    /// # Errors
    /// As for a prompt, and where `from` is of another model or not within the contract.
    pub fn state(&mut self, tokens: &[u32], from: Option<&State>) -> Result<State, StateError> {
        check_tokens(tokens, self.model.model().vocabulary, self.context())?;
        from.map_or(Ok(()), |state| state.check(&self.model, self.digest))?;
        let mut table = Vec::new();
        let state = self.compute(tokens, from, &mut table);
        self.scheduler.pages.release(&mut table);
        state
    }

    fn compute(&mut self, tokens: &[u32], from: Option<&State>, table: &mut Vec<u32>) -> Result<State, StateError> {
        let (page, most) = (self.options.page, self.scheduler.pages.most);
        if !self.scheduler.pages.extend(table, tokens.len().div_ceil(page)) {
            return Err(RequestError::CacheTooSmall { tokens: tokens.len(), capacity: most * page }.into());
        }
        self.reserve()?;
        let known = from.map_or(Ok(0), |state| self.restore(state, tokens, table))?;
        for (chunk, start) in tokens[known..].chunks(self.options.chunk).zip((known..).step_by(self.options.chunk)) {
            let token =
                |(&id, position): (&u32, usize)| Token { id, sequence: 0, position: position as u32, logits: false };
            let chunk: Vec<Token> = chunk.iter().zip(start..).map(token).collect();
            let batch = Batch { tokens: &chunk, tables: &[table] };
            self.executor.forward(&batch, &mut Vec::new(), None).map_err(RequestError::from)?;
        }
        let attentions = self.model.attentions();
        let (mut cache, mut bytes) = (vec![0; size(attentions, tokens.len())], Vec::new());
        for (index, &number) in table.iter().enumerate() {
            bytes.clear();
            self.executor.save(number, &mut bytes).map_err(RequestError::from)?;
            pieces(attentions, tokens.len(), page, index, |whole, part, len| {
                cache[whole..whole + len].copy_from_slice(&bytes[part..part + len]);
            });
        }
        Ok(State { model: self.digest, tokens: tokens.to_vec(), cache })
    }

    /// Puts what `state` knows of `tokens` into the pages of `table`; returns how many tokens that are.
    fn restore(&mut self, state: &State, tokens: &[u32], table: &[u32]) -> Result<usize, RequestError> {
        let (page, known) = (self.options.page, state.common(tokens));
        let attentions = self.model.attentions();
        let mut bytes = vec![0; size(attentions, page)];
        for (index, &number) in table.iter().take(known.div_ceil(page)).enumerate() {
            pieces(attentions, state.tokens.len(), page, index, |whole, part, len| {
                bytes[part..part + len].copy_from_slice(&state.cache[whole..whole + len]);
            });
            self.executor.restore(number, &bytes)?;
        }
        Ok(known)
    }

    /// Takes a request as [`Engine::add`] and [`Engine::add_with_receipt`] do. What `state` knows of its prompt is not
    /// computed again, unless no pages are free for it now.
    ///
    /// # Errors
    /// As for those, and where `state` is of another model or not within the contract.
    pub fn add_from(&mut self, request: Request, trace: Option<Trace>, state: &State) -> Result<RequestId, StateError> {
        state.check(&self.model, self.digest)?;
        let prompt = request.prompt.clone();
        let (id, key) = self.queue(request, trace)?;
        // The last token of a prompt is always run, because its logits are needed.
        let tokens = &prompt[..prompt.len() - 1];
        let mut table = Vec::new();
        if self.scheduler.pages.extend(&mut table, state.common(tokens).div_ceil(self.options.page)) {
            let known = self.reserve().and_then(|()| self.restore(state, tokens, &table));
            match known {
                Ok(known) => self.scheduler.adopt(key, table, known),
                Err(error) => {
                    self.scheduler.pages.release(&mut table);
                    self.cancel(id, None);
                    return Err(error.into());
                }
            }
        }
        Ok(id)
    }
}
