//! Shaders: ops, the parts that they are composed of, and constants, as one text of WGSL.
//!
//! Ops on vectors are stages: functions of a token and a run of its vector, so that one dispatch may do several. A new
//! op is a file in shaders/ops and its line in [`source`]; a new payload a file in shaders/payloads and its line in
//! [`payload`].

use crate::device::{Device, Fault};
use intact_core::formats::{Format, PayloadKind, ScaleMode};
use intact_core::matrix::Activation;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Threads of a workgroup that has a run of a vector.
pub(crate) const THREADS: u32 = 64;
/// Threads of a workgroup that has a token.
pub(crate) const TOKEN_THREADS: u32 = 256;

/// A stage of a shader: an op on some runs of a token's vector, a workgroup for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stage {
    /// The function.
    pub(crate) op: &'static str,
    /// The workgroup of the first run.
    pub(crate) base: u32,
    pub(crate) runs: u32,
}

/// What a shader does, as far as its text differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shader {
    /// An op that has an entry of its own, or `stages`.
    pub(crate) op: &'static str,
    /// One after the other.
    pub(crate) stages: Vec<Stage>,
    /// Constants by name.
    pub(crate) constants: BTreeMap<&'static str, i64>,
    /// The payload that it decodes.
    pub(crate) payload: Option<&'static str>,
}

macro_rules! part {
    ($name:literal) => {
        include_str!(concat!("shaders/", $name, ".wgsl"))
    };
}

/// The parts that an op needs besides those that all have, and its own text.
fn source(op: &str) -> Option<(&'static [&'static str], &'static str)> {
    const NONE: &[&str] = &[];
    const VECTORS: &[&str] = &[part!("parts/vectors"), part!("parts/largest")];
    const CODES: &[&str] = &[part!("parts/codes"), part!("parts/largest")];
    const MATRIX: &[&str] = &[part!("parts/matrix")];
    const LINEAR: &[&str] = &[part!("parts/matrix"), part!("parts/codes"), part!("parts/linear")];
    const CACHE: &[&str] = &[part!("parts/cache"), part!("parts/largest")];
    const SCORES: &[&str] = &[part!("parts/cache"), part!("parts/largest"), part!("parts/scores")];
    const SUMS: &[&str] = &[part!("parts/cache"), part!("parts/largest"), part!("parts/sums")];
    const FEW: &[&str] = &[part!("parts/cache"), part!("parts/largest"), part!("parts/scores"), part!("parts/sums")];
    Some(match op {
        "embed" => (MATRIX, part!("ops/embed")),
        "linear" => (LINEAR, part!("ops/linear")),
        "linear_tile" => (LINEAR, part!("ops/linear_tile")),
        "angles" => (VECTORS, part!("ops/angles")),
        "attention_scores" => (SCORES, part!("ops/attention_scores")),
        "attention_sums" => (SUMS, part!("ops/attention_sums")),
        "attention_few" => (FEW, part!("ops/attention_few")),
        // Stages.
        "quantize" => (CODES, part!("ops/quantize")),
        "rms_norm" => (VECTORS, part!("ops/rms_norm")),
        "rope" => (NONE, part!("ops/rope")),
        "hadamard" => (NONE, part!("ops/hadamard")),
        "attention_query" | "attention_entry" => (CACHE, part!("ops/attention_quantize")),
        "attention_outputs" => (CACHE, part!("ops/attention_outputs")),
        "gated_activation" => (NONE, part!("ops/gated_activation")),
        "activation" => (NONE, part!("ops/activation")),
        "residual_add" => (NONE, part!("ops/residual_add")),
        "softcap" => (NONE, part!("ops/softcap")),
        "gather" => (NONE, part!("ops/gather")),
        _ => return None,
    })
}

/// The type of a stage's params.
fn params_of(stage: &str) -> &'static str {
    match stage {
        "quantize" => "Quantize",
        "rms_norm" => "RmsNorm",
        "rope" => "Rope",
        "hadamard" => "Hadamard",
        "gated_activation" => "GatedActivation",
        "activation" => "Activation",
        "residual_add" => "ResidualAdd",
        "softcap" => "Softcap",
        "gather" => "Gather",
        _ => "Attention",
    }
}

/// The text that decodes a payload, and the constants that it asks for.
pub(crate) fn payload(kind: PayloadKind) -> (&'static str, Vec<(&'static str, i64)>) {
    let text = match kind {
        PayloadKind::T16 => part!("payloads/t16"),
        PayloadKind::T20 => part!("payloads/t20"),
        PayloadKind::Trellis(bits) => return (part!("payloads/trellis"), vec![("STEP_BITS", i64::from(bits))]),
        PayloadKind::U2 => part!("payloads/u2"),
        PayloadKind::U3 => part!("payloads/u3"),
        PayloadKind::U4 => part!("payloads/u4"),
        PayloadKind::U5 => part!("payloads/u5"),
        PayloadKind::U6 => part!("payloads/u6"),
        PayloadKind::U8 => part!("payloads/u8"),
        PayloadKind::N4 => part!("payloads/n4"),
        PayloadKind::W16 => part!("payloads/w16"),
    };
    (text, Vec::new())
}

impl Shader {
    /// A shader without a payload. All have F.
    pub(crate) fn new(op: &'static str, fraction_bits: u32, constants: &[(&'static str, i64)]) -> Self {
        let mut all = BTreeMap::from([("FRACTION_BITS", i64::from(fraction_bits)), ("THREADS", i64::from(THREADS))]);
        all.extend(constants.iter().copied());
        Self { op, stages: Vec::new(), constants: all, payload: None }
    }

    /// A shader of one stage.
    pub(crate) fn stage(stage: Stage, fraction_bits: u32, constants: &[(&'static str, i64)]) -> Self {
        Self { stages: vec![stage], ..Self::new("stages", fraction_bits, constants) }
    }

    /// The same with the stages of `next` after its own, where constants allow it.
    pub(crate) fn then(&self, next: &Self) -> Option<Self> {
        let same = next.constants.iter().all(|(name, value)| self.constants.get(name).is_none_or(|own| own == value));
        if self.op != "stages" || next.op != "stages" || !same {
            return None;
        }
        let mut all = self.clone();
        all.stages.extend(&next.stages);
        all.constants.extend(&next.constants);
        Some(all)
    }

    /// The same with a matrix of `format`.
    pub(crate) fn reading(mut self, format: &Format) -> Self {
        let (text, constants) = payload(format.payload.kind());
        let mode = match format.mode {
            ScaleMode::R => 0,
            ScaleMode::B4 => 1,
            ScaleMode::B8 => 2,
            ScaleMode::Z8 => 3,
        };
        let planes = if format.payload.kind() == PayloadKind::W16 { 2 } else { 1 };
        self.constants.extend([("MODE", mode), ("BLOCK", format.block as i64), ("WEIGHT_PLANES", planes)]);
        self.constants.extend(constants);
        self.payload = Some(text);
        self
    }

    /// The same with inputs of `activation`.
    pub(crate) fn activated(mut self, activation: Activation) -> Self {
        let act = match activation {
            Activation::A8 => 0,
            Activation::A8b { .. } => 1,
            Activation::A16 => 2,
        };
        self.constants.insert("ACT", act);
        self
    }

    /// Its op, or all of its stages.
    fn ops(&self) -> Vec<&'static str> {
        if self.stages.is_empty() { vec![self.op] } else { self.stages.iter().map(|stage| stage.op).collect() }
    }

    /// The whole text.
    fn text(&self) -> String {
        let mut text = String::new();
        for (&name, value) in &self.constants {
            let typed = if name == "FRACTION_BITS" { format!("i32 = {value}") } else { format!("u32 = {value}u") };
            let _ = writeln!(text, "const {name}: {typed};");
        }
        let mut all = vec![part!("parts/wide"), part!("parts/fixed"), part!("parts/step")];
        all.extend(&self.payload);
        for (parts, op) in self.ops().into_iter().filter_map(source) {
            all.extend(parts);
            all.push(op);
        }
        let mut seen = BTreeSet::new();
        all.into_iter().filter(|part| seen.insert(*part)).for_each(|part| text.push_str(part));
        if !self.stages.is_empty() {
            self.write_stages(&mut text);
        }
        text
    }

    /// Params and the entry of a shader of stages. A stage sees what stages before it have written.
    fn write_stages(&self, text: &mut String) {
        text.push_str("struct Params {\n");
        for (i, stage) in self.stages.iter().enumerate() {
            let _ = writeln!(text, "    @align(16) stage_{i}: {},", params_of(stage.op));
        }
        text.push_str("}\n\n@compute @workgroup_size(THREADS)\nfn main(\n    @builtin(workgroup_id) group: vec3<u32>,");
        text.push_str(" @builtin(local_invocation_index) thread: u32,\n) {\n");
        for (i, Stage { op, base, runs }) in self.stages.iter().enumerate() {
            if i > 0 {
                text.push_str("    storageBarrier();\n    workgroupBarrier();\n");
            }
            let _ = writeln!(text, "    if (group.x - {base}u < {runs}u) {{");
            let _ = writeln!(text, "        {op}(params.stage_{i}, group.y, group.x - {base}u, thread);\n    }}");
        }
        text.push_str("}\n");
    }
}

/// Compiled shaders.
pub(crate) struct Pipelines {
    layout: wgpu::PipelineLayout,
    /// Of the groups 0, 1 and 2: the step, what an op reads, its cache.
    pub(crate) groups: [wgpu::BindGroupLayout; 3],
    compiled: BTreeMap<Shader, wgpu::ComputePipeline>,
    /// An op, a piece of its text, and what stands there instead.
    planted: Option<[&'static str; 3]>,
}

impl Pipelines {
    pub(crate) fn new(device: &wgpu::Device) -> Self {
        let entry = |binding, ty, dynamic| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None },
            count: None,
        };
        let (read, write) = (
            wgpu::BufferBindingType::Storage { read_only: true },
            wgpu::BufferBindingType::Storage { read_only: false },
        );
        let entries = [
            vec![
                entry(0, read, false),
                entry(1, write, false),
                entry(2, write, false),
                entry(3, wgpu::BufferBindingType::Uniform, true),
            ],
            vec![entry(0, read, false)],
            vec![entry(0, write, false)],
        ];
        let groups = entries.map(|entries| {
            let descriptor = wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries };
            device.create_bind_group_layout(&descriptor)
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&groups[0]), Some(&groups[1]), Some(&groups[2])],
            immediate_size: 0,
        });
        Self { layout, groups, compiled: BTreeMap::new(), planted: None }
    }

    /// [`Device::plant`].
    pub(crate) fn plant(&mut self, op: &'static str, from: &'static str, to: &'static str) {
        self.compiled.clear();
        self.planted = Some([op, from, to]);
    }

    fn text(&self, shader: &Shader) -> String {
        let text = shader.text();
        match self.planted {
            Some([op, from, to]) if shader.ops().contains(&op) => text.replace(from, to),
            _ => text,
        }
    }

    /// The pipeline of a shader, compiled where it is not yet.
    pub(crate) fn get(&mut self, gpu: &Device, shader: &Shader) -> Result<wgpu::ComputePipeline, Fault> {
        if let Some(pipeline) = self.compiled.get(shader) {
            return Ok(pipeline.clone());
        }
        let name = shader.ops().join(", ");
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(self.text(shader).into()),
        });
        let compilation_options = wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..wgpu::PipelineCompilationOptions::default()
        };
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&self.layout),
            module: &module,
            entry_point: None,
            compilation_options,
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(gpu.failed(format!("shader {name}: {error}")));
        }
        self.compiled.insert(shader.clone(), pipeline.clone());
        Ok(pipeline)
    }
}
