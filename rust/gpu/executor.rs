//! Runs batches: one submission for each, unless it exceeds what the device's buffers hold.

use crate::device::{Device, Fault};
use crate::pages::{PageShape, SUM_BLOCK, score_words};
use crate::plan::{Dispatch, Grid, PARAM_WORDS, Part, Plan, Step, When};
use intact_core::certify::Certified;
use intact_core::cpu::{Batch, Token};
use intact_core::executor::{self, Executor, Probe};
use std::sync::Arc;
use wgpu::BufferUsages;

/// Bytes from one dispatch's params to the next's: room for the longest, and a multiple of 256, to which any device
/// aligns them.
const PARAMS: usize = 4 * PARAM_WORDS;
/// Pages that a cache grows by at least.
const GROW: usize = 16;

/// What an executor has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Submissions.
    pub submissions: u64,
    /// Dispatches.
    pub dispatches: u64,
    /// Bytes that went up after the weights.
    pub up: u64,
    /// Bytes that came down.
    pub down: u64,
}

/// A dispatch, and as soon as it is needed, what it compiles to.
struct Ready {
    dispatch: Dispatch,
    pipelines: Vec<wgpu::ComputePipeline>,
    params: u32,
}

impl Ready {
    /// Takes the next place among params.
    fn new(dispatch: Dispatch, words: &mut Vec<u8>) -> Self {
        let params = words.len() as u32;
        words.extend(dispatch.params.iter().flat_map(|word| word.to_le_bytes()));
        words.resize(params as usize + PARAMS, 0);
        Self { dispatch, pipelines: Vec::new(), params }
    }

    fn compile(&mut self, gpu: &Device) -> Result<(), Fault> {
        if self.pipelines.is_empty() {
            let mut pipelines = gpu.pipelines.lock().map_err(|error| gpu.failed(error))?;
            for (_, shader) in &self.dispatch.shaders {
                self.pipelines.push(pipelines.get(gpu, shader)?);
            }
        }
        Ok(())
    }

    /// The pipeline for so many tokens, and its workgroups; none where it is not needed.
    fn grid(&self, tokens: &[Token], count: usize) -> Option<(&wgpu::ComputePipeline, [u32; 3])> {
        let seen = |window: u32| {
            let longest = tokens.iter().map(|token| token.position + 1).max().unwrap_or(1);
            if window == 0 { longest } else { longest.min(window) }
        };
        let needed = match self.dispatch.when {
            When::Always => true,
            When::Few(window) => seen(window) <= SUM_BLOCK,
            When::Many(window) => seen(window) > SUM_BLOCK,
        };
        // Twice as many tokens as a shader takes are two of it.
        let count = count as u32;
        let shaders = &self.dispatch.shaders;
        let fits = |i: &usize| shaders[*i].0.tokens * 2 >= count && (shaders[*i].0.tokens > 1 || count == 1);
        let chosen = (0..shaders.len()).find(fits).unwrap_or(shaders.len().checked_sub(1)?);
        let at_once = shaders[chosen].0;
        let grid = match self.dispatch.grid {
            Grid::Tokens(x) => [x, count, 1],
            Grid::Tiles(tiles) => {
                let blocks = tiles.into_iter().map(|tiles| tiles.div_ceil(at_once.tiles)).sum();
                [blocks, count.div_ceil(at_once.tokens), 1]
            }
            Grid::Positions { block, heads, window } => [seen(window).div_ceil(block), heads, count],
        };
        needed.then(|| self.pipelines.get(chosen).map(|pipeline| (pipeline, grid)))?
    }
}

/// The dispatches of an op.
struct ReadyStep {
    dispatches: Vec<Ready>,
    writes: Vec<usize>,
}

/// A buffer that grows, without its content.
struct Growing {
    what: &'static str,
    usage: BufferUsages,
    buffer: wgpu::Buffer,
}

impl Growing {
    fn new(gpu: &Device, what: &'static str, usage: BufferUsages) -> Result<Self, Fault> {
        Ok(Self { what, usage, buffer: gpu.buffer(what, 4096, usage)? })
    }

    /// Makes it hold `bytes`; whether it is another buffer now.
    fn reserve(&mut self, gpu: &Device, bytes: u64) -> Result<bool, Fault> {
        let short = self.buffer.size() < bytes;
        if short {
            let generous = bytes.next_power_of_two().min(gpu.binding()).max(bytes);
            self.buffer = gpu.buffer(self.what, generous, self.usage)?;
        }
        Ok(short)
    }
}

/// Runs one model on a GPU. Weights, caches and working memory are its own.
pub struct Gpu {
    gpu: Device,
    model: Arc<Certified>,
    plan: Plan,
    /// Op by op; compiled when first asked for.
    body: Vec<ReadyStep>,
    head: Vec<ReadyStep>,
    /// In few dispatches: body, then head.
    fused: [Vec<Ready>; 2],
    layouts: [wgpu::BindGroupLayout; 3],
    arena: wgpu::Buffer,
    params: wgpu::Buffer,
    step: Growing,
    scratch: Growing,
    staging: Growing,
    shared: wgpu::BindGroup,
    data: Vec<wgpu::BindGroup>,
    caches: Vec<wgpu::Buffer>,
    layers: Vec<wgpu::BindGroup>,
    page: usize,
    pages: usize,
    words: Vec<u8>,
    traffic: Traffic,
}

impl Gpu {
    /// Uploads `model`; `page` positions to a cache page.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`], and [`Fault::Failed`] where the driver cannot compile a shader.
    pub fn new(gpu: Device, model: Arc<Certified>, page: usize) -> Result<Self, Fault> {
        let page = page.max(1);
        let mut plan = Plan::new(&gpu, &model, page)?;
        let mut words = Vec::new();
        let mut ready = |dispatches: &mut Vec<Dispatch>| -> Vec<Ready> {
            dispatches.drain(..).map(|dispatch| Ready::new(dispatch, &mut words)).collect()
        };
        let mut fused = [ready(&mut plan.fused_body), ready(&mut plan.fused_head)];
        let mut steps = |steps: &mut Vec<Step>| -> Vec<ReadyStep> {
            let step = |mut step: Step| ReadyStep { dispatches: ready(&mut step.dispatches), writes: step.writes };
            steps.drain(..).map(step).collect()
        };
        let (body, head) = (steps(&mut plan.body), steps(&mut plan.head));
        fused.iter_mut().flatten().try_for_each(|ready| ready.compile(&gpu))?;
        let layouts = gpu.pipelines.lock().map_err(|error| gpu.failed(error))?.groups.clone();
        let params = gpu.buffer("params", words.len() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        gpu.queue.write_buffer(&params, 0, &words);
        let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let arena = gpu.buffer("arena", 4 * plan.arena, storage)?;
        let step = Growing::new(&gpu, "step", BufferUsages::STORAGE | BufferUsages::COPY_DST)?;
        let scratch = Growing::new(&gpu, "scores", BufferUsages::STORAGE)?;
        let staging = Growing::new(&gpu, "staging", BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        let shared = shared(&gpu, &layouts[0], [&step.buffer, &arena, &scratch.buffer, &params]);
        let data = plan.data.iter().map(|buffer| single(&gpu, &layouts[1], buffer)).collect();
        let mut executor = Self {
            gpu,
            model,
            plan,
            body,
            head,
            fused,
            layouts,
            arena,
            params,
            step,
            scratch,
            staging,
            shared,
            data,
            caches: Vec::new(),
            layers: Vec::new(),
            page,
            pages: 0,
            words,
            traffic: Traffic::default(),
        };
        executor.grow(1)?;
        executor.gpu.check()?;
        Ok(executor)
    }

    /// What it has done.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The device.
    #[must_use]
    pub fn gpu(&self) -> &Device {
        &self.gpu
    }

    /// Bytes on the device: of weights, of caches, and of everything else.
    #[must_use]
    pub fn memory(&self) -> [u64; 3] {
        let caches = self.caches.iter().map(wgpu::Buffer::size).sum();
        let others = [&self.arena, &self.params, &self.step.buffer, &self.scratch.buffer, &self.staging.buffer];
        let weights = self.plan.data.iter().map(wgpu::Buffer::size).sum();
        [weights, caches, others.into_iter().map(wgpu::Buffer::size).sum()]
    }

    /// [`Executor::reserve`].
    fn grow(&mut self, pages: usize) -> Result<(), Fault> {
        if pages <= self.pages {
            return Ok(());
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let sizes: Vec<u64> =
            self.model.attentions().iter().map(|a| 4 * PageShape::new(a, self.page).words()).collect();
        let most = sizes.iter().max().map_or(usize::MAX, |size| (self.gpu.binding() / size) as usize);
        let grown = (self.pages + GROW.max(self.pages / 4)).min(most).max(pages);
        let mut caches = Vec::with_capacity(sizes.len().max(1));
        for size in &sizes {
            caches.push(self.gpu.buffer("KV cache", size * grown as u64, usage)?);
        }
        if caches.is_empty() {
            caches.push(self.gpu.buffer("KV cache", 4, usage)?);
        }
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for ((from, to), size) in self.caches.iter().zip(&caches).zip(&sizes) {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, size * self.pages as u64);
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.layers = caches.iter().map(|cache| single(&self.gpu, &self.layouts[2], cache)).collect();
        (self.caches, self.pages) = (caches, grown);
        self.gpu.check()
    }

    /// [`Executor::forward`].
    fn run(&mut self, batch: &Batch<'_>, logits: &mut Vec<i32>, probe: Option<Probe<'_>>) -> Result<(), Fault> {
        let mut written = Vec::new();
        let mut rest = batch.tokens;
        while !rest.is_empty() {
            let count = self.fitting(rest);
            let (now, later) = rest.split_at(count);
            let part = Batch { tokens: now, tables: batch.tables };
            self.submit(&part, logits, probe.is_some().then_some(&mut written))?;
            rest = later;
        }
        if let Some(probe) = probe {
            // A batch without tokens of the head does not run it.
            written
                .iter()
                .for_each(|(slot, values): &(usize, Vec<i32>)| probe(&self.model.model().slots[*slot], values));
        }
        Ok(())
    }

    /// How many of the first tokens fit one submission.
    fn fitting(&self, tokens: &[Token]) -> usize {
        let (mut scores, mut head) = (0, 0);
        let fits = |token: &&Token| {
            scores += score_words(self.model.attentions(), u64::from(token.position) + 1);
            head += usize::from(token.logits);
            scores <= self.plan.scores && head <= self.plan.head_tokens
        };
        tokens.iter().take(self.plan.chunk).take_while(fits).count().max(1)
    }

    fn submit(
        &mut self, batch: &Batch<'_>, logits: &mut Vec<i32>, written: Option<&mut Vec<(usize, Vec<i32>)>>,
    ) -> Result<(), Fault> {
        let wanted = self.upload(batch)?;
        let tokens = batch.tokens;
        let result = self.model.result_width() as u64;
        let slot = self.model.logits();
        let (start, width) = (self.plan.slot(Part::Head, slot), self.model.widths()[slot] as u64);
        let rows = (0..wanted as u64).map(|row| (start + row * width, result));
        let Some(written) = written else {
            let mut encoder = self.encoder();
            self.encode(&mut encoder, Part::Body, None, tokens, tokens.len());
            if wanted > 0 {
                self.encode(&mut encoder, Part::Head, None, tokens, wanted);
            }
            return self.read(encoder, rows, logits);
        };
        let (mut index, gpu) = (0, &self.gpu);
        let steps = self.body.iter_mut().chain(&mut self.head);
        steps.flat_map(|step| &mut step.dispatches).try_for_each(|ready| ready.compile(gpu))?;
        for (part, count) in [(Part::Body, tokens.len()), (Part::Head, wanted)] {
            let steps = if part == Part::Body { self.body.len() } else { self.head.len() };
            for i in 0..if count == 0 { 0 } else { steps } {
                let mut encoder = self.encoder();
                self.encode(&mut encoder, part, Some(i), tokens, count);
                let step = if part == Part::Body { &self.body[i] } else { &self.head[i] };
                let writes = step.writes.clone();
                let places: Vec<(u64, u64)> = writes
                    .iter()
                    .map(|&slot| (self.plan.slot(part, slot), (count * self.model.widths()[slot]) as u64))
                    .collect();
                let mut values = Vec::new();
                self.read(encoder, places.iter().copied(), &mut values)?;
                let mut values = values.as_slice();
                for (&slot, &(_, len)) in writes.iter().zip(&places) {
                    if index == written.len() {
                        written.push((slot, Vec::new()));
                    }
                    let (now, later) = values.split_at(len as usize);
                    written[index].1.extend_from_slice(now);
                    (values, index) = (later, index + 1);
                }
            }
        }
        let encoder = self.encoder();
        self.read(encoder, rows, logits)
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Writes the batch to the device; returns how many logits are asked for.
    fn upload(&mut self, batch: &Batch<'_>) -> Result<usize, Fault> {
        let vocabulary = self.model.model().vocabulary;
        let tokens = batch.tokens;
        assert!(tokens.iter().all(|token| (token.id as usize) < vocabulary), "token id outside the vocabulary");
        let wanted: Vec<u32> = (0..tokens.len()).filter(|&i| tokens[i].logits).map(|i| i as u32).collect();
        let list = 4 + 4 * tokens.len();
        let (mut tables, mut next) = (Vec::with_capacity(batch.tables.len()), list + wanted.len());
        for table in batch.tables {
            tables.push(next as u32);
            next += table.len();
        }
        let mut words = vec![tokens.len() as u32, wanted.len() as u32, list as u32, 0];
        let mut scores = 0;
        for token in tokens {
            let table = batch.tables[token.sequence as usize];
            let page = table[token.position as usize / self.page] as usize;
            assert!(page < self.pages, "a page outside the cache");
            words.extend([token.id, token.position, tables[token.sequence as usize], scores as u32]);
            scores += score_words(self.model.attentions(), u64::from(token.position) + 1);
        }
        words.extend(&wanted);
        batch.tables.iter().for_each(|table| words.extend_from_slice(table));
        self.words.clear();
        self.words.extend(words.into_iter().flat_map(u32::to_le_bytes));
        let step = self.step.reserve(&self.gpu, self.words.len() as u64)?;
        if self.scratch.reserve(&self.gpu, 4 * scores)? || step {
            let buffers = [&self.step.buffer, &self.arena, &self.scratch.buffer, &self.params];
            self.shared = shared(&self.gpu, &self.layouts[0], buffers);
        }
        self.gpu.queue.write_buffer(&self.step.buffer, 0, &self.words);
        self.traffic.up += self.words.len() as u64;
        Ok(wanted.len())
    }

    /// Encodes one op of a part, or all.
    fn encode(
        &mut self, encoder: &mut wgpu::CommandEncoder, part: Part, only: Option<usize>, tokens: &[Token], count: usize,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let (steps, fused) =
            if part == Part::Body { (&self.body, &self.fused[0]) } else { (&self.head, &self.fused[1]) };
        let (mut data, mut layer) = (usize::MAX, usize::MAX);
        for ready in only.map_or(fused, |i| &steps[i].dispatches) {
            let Some((pipeline, [x, y, z])) = ready.grid(tokens, count) else { continue };
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &self.shared, &[ready.params]);
            if data != ready.dispatch.data {
                data = ready.dispatch.data;
                pass.set_bind_group(1, &self.data[data], &[]);
            }
            if layer != ready.dispatch.layer {
                layer = ready.dispatch.layer;
                pass.set_bind_group(2, &self.layers[layer], &[]);
            }
            pass.dispatch_workgroups(x, y, z);
            self.traffic.dispatches += 1;
        }
    }

    /// Submits what is encoded, and appends words of the arena: (start, length) each.
    fn read(
        &mut self, encoder: wgpu::CommandEncoder, places: impl Iterator<Item = (u64, u64)>, out: &mut Vec<i32>,
    ) -> Result<(), Fault> {
        let arena = self.arena.clone();
        self.read_from(encoder, places.map(|(start, len)| (&arena, start, len)).collect(), out)
    }

    /// The same of any buffers.
    fn read_from(
        &mut self, mut encoder: wgpu::CommandEncoder, places: Vec<(&wgpu::Buffer, u64, u64)>, out: &mut Vec<i32>,
    ) -> Result<(), Fault> {
        let bytes = 4 * places.iter().map(|(.., len)| len).sum::<u64>();
        self.staging.reserve(&self.gpu, bytes)?;
        let mut end = 0;
        for (buffer, start, len) in places.into_iter().filter(|(.., len)| *len > 0) {
            encoder.copy_buffer_to_buffer(buffer, 4 * start, &self.staging.buffer, end, 4 * len);
            end += 4 * len;
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.traffic.submissions += 1;
        if bytes == 0 {
            return self.gpu.check();
        }
        self.traffic.down += bytes;
        let (sender, receiver) = std::sync::mpsc::channel();
        // Whoever waits hears of a failure by the channel.
        self.staging.buffer.map_async(wgpu::MapMode::Read, ..bytes, move |result| drop(sender.send(result)));
        self.gpu.wait()?;
        let mapped = receiver.recv().map_err(|error| self.gpu.failed(error))?;
        mapped.map_err(|error| self.gpu.failed(error))?;
        {
            let view = self.staging.buffer.get_mapped_range(..bytes).map_err(|error| self.gpu.failed(error))?;
            out.extend(view.as_chunks().0.iter().map(|&word| i32::from_le_bytes(word)));
        }
        self.staging.buffer.unmap();
        Ok(())
    }
}

impl Executor for Gpu {
    fn page(&self) -> usize {
        self.page
    }

    fn pages(&self) -> usize {
        self.pages
    }

    fn reserve(&mut self, pages: usize) -> Result<(), executor::Fault> {
        Ok(self.grow(pages)?)
    }

    fn forward(
        &mut self, batch: &Batch<'_>, logits: &mut Vec<i32>, probe: Option<Probe<'_>>,
    ) -> Result<(), executor::Fault> {
        Ok(self.run(batch, logits, probe)?)
    }

    fn save(&mut self, page: u32, out: &mut Vec<u8>) -> Result<(), executor::Fault> {
        let shapes: Vec<PageShape> = self.model.attentions().iter().map(|a| PageShape::new(a, self.page)).collect();
        let (caches, encoder, mut words) = (self.caches.clone(), self.encoder(), Vec::new());
        let place = |(cache, shape): (_, &PageShape)| (cache, u64::from(page) * shape.words(), shape.words());
        self.read_from(encoder, caches.iter().zip(&shapes).map(place).collect(), &mut words)?;
        let mut rest = words.as_slice();
        for shape in &shapes {
            let (now, later) = rest.split_at(shape.words() as usize);
            shape.unpack(now, out);
            rest = later;
        }
        Ok(())
    }

    fn restore(&mut self, page: u32, bytes: &[u8]) -> Result<(), executor::Fault> {
        let mut rest = bytes;
        for (cache, a) in self.caches.iter().zip(self.model.attentions()) {
            let shape = PageShape::new(a, self.page);
            let (now, later) = rest.split_at(shape.bytes());
            let words = shape.pack(now);
            self.gpu.queue.write_buffer(cache, 4 * u64::from(page) * shape.words(), &words);
            self.traffic.up += words.len() as u64;
            rest = later;
        }
        assert!(rest.is_empty(), "more bytes than a page has");
        Ok(self.gpu.check()?)
    }
}

fn shared(gpu: &Device, layout: &wgpu::BindGroupLayout, buffers: [&wgpu::Buffer; 4]) -> wgpu::BindGroup {
    let [step, arena, scratch, params] = buffers;
    let size = std::num::NonZeroU64::new(PARAMS as u64);
    let params = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: params, offset: 0, size });
    let resources = [step.as_entire_binding(), arena.as_entire_binding(), scratch.as_entire_binding(), params];
    let entries: Vec<_> =
        (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

fn single(gpu: &Device, layout: &wgpu::BindGroupLayout, buffer: &wgpu::Buffer) -> wgpu::BindGroup {
    let entries = [wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }];
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}
