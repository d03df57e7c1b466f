//! Adapters and devices, with their limits and faults.

use crate::shaders::Pipelines;
use intact_core::executor;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use wgpu::{Backends, DeviceType};

/// What can go wrong on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No adapter, or none of that name.
    #[error(
        "no GPU adapter{}; this machine has {found}: use device=\"cpu\", or install a driver for Vulkan, Metal, DirectX 12 or OpenGL ES 3.1",
        if wanted.is_empty() { String::new() } else { format!(" {wanted:?}") }
    )]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The adapter lacks something that every shader needs.
    #[error("{adapter}: {what}; use another adapter or device=\"cpu\"")]
    Unfit {
        /// The adapter.
        adapter: String,
        /// What it lacks.
        what: String,
    },
    /// Memory of the device is not to be had.
    #[error(
        "{adapter}: {bytes} bytes for {what} are not to be had; lower kv_tokens, offload more layers, or use device=\"cpu\""
    )]
    OutOfMemory {
        /// The adapter.
        adapter: String,
        /// Of what.
        what: &'static str,
        /// As many.
        bytes: u64,
    },
    /// The driver failed or took the device away.
    #[error("{adapter}: the device failed: {message}; sequences are lost, start again or use device=\"cpu\"")]
    Failed {
        /// The adapter.
        adapter: String,
        /// In the driver's words.
        message: String,
    },
}

/// A GPU of this machine, as one of its drivers offers it.
pub struct Adapter {
    adapter: wgpu::Adapter,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: &'static str,
    /// The driver's name of it.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// Whether it is the CPU that pretends.
    pub software: bool,
    label: String,
}

impl Adapter {
    /// Every adapter, the best first: hardware before software, then in the order vulkan, metal, dx12, gl.
    #[must_use]
    pub fn all() -> Vec<Self> {
        Self::of(Backends::VULKAN | Backends::METAL | Backends::DX12 | Backends::GL)
    }

    /// Those of some back ends.
    fn of(backends: Backends) -> Vec<Self> {
        let descriptor =
            wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
        let instance = wgpu::Instance::new(descriptor);
        let mut all: Vec<Self> = pollster::block_on(instance.enumerate_adapters(backends))
            .into_iter()
            .filter_map(|adapter| {
                let info = adapter.get_info();
                let backend = match info.backend {
                    wgpu::Backend::Vulkan => "vulkan",
                    wgpu::Backend::Metal => "metal",
                    wgpu::Backend::Dx12 => "dx12",
                    wgpu::Backend::Gl => "gl",
                    wgpu::Backend::Noop | wgpu::Backend::BrowserWebGpu => return None,
                };
                let software = info.device_type == DeviceType::Cpu || info.name.contains("llvmpipe");
                let driver = [info.driver, info.driver_info].join(" ");
                let label = format!("{backend}:{}", info.name);
                Some(Self { adapter, backend, name: info.name, driver: driver.trim().to_owned(), software, label })
            })
            .collect();
        let rank = |adapter: &Self| ["vulkan", "metal", "dx12", "gl"].iter().position(|name| *name == adapter.backend);
        all.sort_by_key(|adapter| (adapter.software, rank(adapter)));
        let mut seen = BTreeMap::new();
        for adapter in &mut all {
            let count = seen.entry(adapter.label.clone()).or_insert(0);
            *count += 1;
            if *count > 1 {
                adapter.label = format!("{} #{count}", adapter.label);
            }
        }
        all
    }

    /// Back end and name, `vulkan:NAME`; ` #2` and so on follow where several have the same.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The adapter that `wanted` names: a back end (`vulkan`), a part of the adapter's name, or both as
    /// `vulkan:name`; empty for the best. Upper and lower case are the same.
    ///
    /// # Errors
    /// [`Fault::NoAdapter`].
    pub fn choose(wanted: &str) -> Result<Self, Fault> {
        let lower = wanted.to_lowercase();
        let fits = |adapter: &Self| {
            let label = adapter.label.to_lowercase();
            let (backend, name) = label.split_once(':').unwrap_or_default();
            let within = lower.strip_prefix(backend).and_then(|rest| rest.strip_prefix(':'));
            lower == backend || name.contains(lower.as_str()) || within.is_some_and(|wanted| name.contains(wanted))
        };
        // OpenGL is opened only where it may be the answer: drivers of it print to stderr where there is no display.
        let backends = match lower.split(':').next() {
            Some("gl") => Backends::GL,
            _ => Backends::VULKAN | Backends::METAL | Backends::DX12,
        };
        if let Some(adapter) = Self::of(backends).into_iter().find(|adapter| fits(adapter) && !adapter.software) {
            return Ok(adapter);
        }
        let all = Self::all();
        let found = all.iter().map(Self::label).collect::<Vec<_>>().join(", ");
        let none = Fault::NoAdapter {
            wanted: wanted.to_owned(),
            found: if found.is_empty() { "none".to_owned() } else { found },
        };
        all.into_iter().find(|adapter| fits(adapter)).ok_or(none)
    }

    /// A device on it.
    ///
    /// # Errors
    /// [`Fault::Unfit`] and [`Fault::Failed`].
    pub fn open(&self) -> Result<Device, Fault> {
        let label = self.label.clone();
        let offered = self.adapter.limits();
        let unfit = |what: String| Fault::Unfit { adapter: label.clone(), what };
        if offered.max_storage_buffers_per_shader_stage < BUFFERS {
            let given = offered.max_storage_buffers_per_shader_stage;
            return Err(unfit(format!("its shaders see {given} storage buffers at once, and {BUFFERS} are needed")));
        }
        if offered.max_compute_invocations_per_workgroup < 256 || offered.max_compute_workgroup_storage_size < 16384 {
            return Err(unfit("its workgroups are below 256 threads or 16 KiB".to_owned()));
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("intact"),
            required_limits: offered.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let opened = pollster::block_on(self.adapter.request_device(&descriptor));
        let (device, queue) =
            opened.map_err(|error| Fault::Failed { adapter: label.clone(), message: error.to_string() })?;
        let failure = Arc::new(Mutex::new(None));
        let keep = |message: String, failure: &Mutex<Option<String>>| {
            if let Ok(mut first) = failure.lock() {
                first.get_or_insert(message);
            }
        };
        let first = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| keep(error.to_string(), &first)));
        let first = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, message| keep(format!("{reason:?}: {message}"), &first));
        let pipelines = Arc::new(Mutex::new(Pipelines::new(&device)));
        Ok(Device { device, queue, limits: offered, label, failure, pipelines })
    }
}

/// Storage buffers that one shader sees at most.
const BUFFERS: u32 = 5;

/// An open device, with the shaders that were compiled for it: clones share both.
#[derive(Clone)]
pub struct Device {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    label: String,
    /// What the driver said first.
    failure: Arc<Mutex<Option<String>>>,
    pub(crate) pipelines: Arc<Mutex<Pipelines>>,
}

impl From<Fault> for executor::Fault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::OutOfMemory { adapter, what, bytes } => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Self::OutOfMemory { what: format!("{adapter}: {what}"), bytes }
            }
            Fault::NoAdapter { .. } | Fault::Unfit { .. } | Fault::Failed { .. } => Self::Device(fault.to_string()),
        }
    }
}

impl Device {
    /// The adapter, for messages.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Gives the device up, as a driver that fails does: for tests of what follows.
    pub fn lose(&self) {
        self.device.destroy();
    }

    /// Replaces a piece of every shader of `op` that is compiled from now on, as a wrong driver would: for tests that it
    /// is noticed.
    pub fn plant(&self, op: &'static str, from: &'static str, to: &'static str) {
        if let Ok(mut pipelines) = self.pipelines.lock() {
            pipelines.plant(op, from, to);
        }
    }

    /// Bytes that one binding sees at most, a multiple of 256.
    pub(crate) fn binding(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size) / 256 * 256
    }

    /// A buffer, if there is memory for it and a binding may have its size.
    pub(crate) fn buffer(
        &self, what: &'static str, bytes: u64, usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, Fault> {
        let size = bytes.max(256).next_multiple_of(256);
        let missing = Fault::OutOfMemory { adapter: self.label.clone(), what, bytes };
        if size > self.binding() {
            return Err(missing);
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor = wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        if pollster::block_on(memory.pop()).is_some() { Err(missing) } else { Ok(buffer) }
    }

    /// Whether the device still works.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let message = self.failure.lock().ok().and_then(|message| message.clone());
        message.map_or(Ok(()), |message| Err(self.failed(message)))
    }

    pub(crate) fn failed(&self, message: impl ToString) -> Fault {
        Fault::Failed { adapter: self.label.clone(), message: message.to_string() }
    }

    /// Waits until everything that was submitted is done.
    pub(crate) fn wait(&self) -> Result<(), Fault> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| self.failed(error))?;
        self.check()
    }
}
