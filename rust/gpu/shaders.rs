//! Shaders: an op, the parts that it is composed of, and constants, as one text of WGSL.
//!
//! A new op is a file in shaders/ops and its line in [`source`]; a new payload a file in shaders/payloads and its line
//! in [`payload`].

use crate::device::{Device, Fault};
use intact_core::formats::{Format, PayloadKind, ScaleMode};
use intact_core::matrix::Activation;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Threads of a workgroup that reduces.
pub(crate) const THREADS: u32 = 64;

/// An op, as far as its shader differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shader {
    pub(crate) op: &'static str,
    /// Constants by name.
    pub(crate) constants: Vec<(&'static str, i64)>,
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
    const LARGEST: &[&str] = &[part!("parts/largest")];
    const CODES: &[&str] = &[part!("parts/codes"), part!("parts/largest")];
    const MATRIX: &[&str] = &[part!("parts/matrix")];
    const LINEAR: &[&str] = &[part!("parts/matrix"), part!("parts/codes"), part!("parts/linear")];
    const CACHE: &[&str] = &[part!("parts/attention_params"), part!("parts/cache"), part!("parts/largest")];
    Some(match op {
        "embed" => (MATRIX, part!("ops/embed")),
        "quantize" => (CODES, part!("ops/quantize")),
        "linear" => (LINEAR, part!("ops/linear")),
        "linear_tile" => (LINEAR, part!("ops/linear_tile")),
        "rms_norm" => (LARGEST, part!("ops/rms_norm")),
        "angles" => (NONE, part!("ops/angles")),
        "rope" => (NONE, part!("ops/rope")),
        "hadamard" => (NONE, part!("ops/hadamard")),
        "attention_quantize" => (CACHE, part!("ops/attention_quantize")),
        "attention_scores" => (CACHE, part!("ops/attention_scores")),
        "attention_sums" => (CACHE, part!("ops/attention_sums")),
        "attention_outputs" => (CACHE, part!("ops/attention_outputs")),
        "gated_activation" => (NONE, part!("ops/gated_activation")),
        "activation" => (NONE, part!("ops/activation")),
        "residual_add" => (NONE, part!("ops/residual_add")),
        "softcap" => (NONE, part!("ops/softcap")),
        "gather" => (NONE, part!("ops/gather")),
        _ => return None,
    })
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
        let mut all = vec![("FRACTION_BITS", i64::from(fraction_bits)), ("THREADS", i64::from(THREADS))];
        all.extend_from_slice(constants);
        Self { op, constants: all, payload: None }
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
        self.constants.push(("ACT", act));
        self
    }

    /// The whole text.
    fn text(&self) -> String {
        let (parts, op) = source(self.op).unwrap_or_default();
        let mut text = String::new();
        for &(name, value) in &self.constants {
            let typed = if name == "FRACTION_BITS" { format!("i32 = {value}") } else { format!("u32 = {value}u") };
            let _ = writeln!(text, "const {name}: {typed};");
        }
        let all = [part!("parts/wide"), part!("parts/fixed"), part!("parts/step")];
        for part in all.iter().chain(parts).chain(&self.payload).chain(&[op]) {
            text.push_str(part);
        }
        text
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
            Some([op, from, to]) if op == shader.op => text.replace(from, to),
            _ => text,
        }
    }

    /// The pipeline of a shader, compiled where it is not yet.
    pub(crate) fn get(&mut self, gpu: &Device, shader: &Shader) -> Result<wgpu::ComputePipeline, Fault> {
        if let Some(pipeline) = self.compiled.get(shader) {
            return Ok(pipeline.clone());
        }
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(shader.op),
            source: wgpu::ShaderSource::Wgsl(self.text(shader).into()),
        });
        let compilation_options = wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..wgpu::PipelineCompilationOptions::default()
        };
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.op),
            layout: Some(&self.layout),
            module: &module,
            entry_point: None,
            compilation_options,
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(gpu.failed(format!("shader {}: {error}", shader.op)));
        }
        self.compiled.insert(shader.clone(), pipeline.clone());
        Ok(pipeline)
    }
}
