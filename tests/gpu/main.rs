//! The GPU executor on every adapter of this machine, against the reference kernels: equal in every integer.
//!
//! `INTACT_GPU` names an adapter; without it all are tested, and a machine without any skips these tests aloud unless
//! `INTACT_GPU_EXPECT` lists what must be there (`vulkan,gl`).

mod conformance;
mod faults;
mod formats;
mod models;
mod self_test;
mod traffic;

use intact_gpu::Adapter;

/// The adapters to test.
fn adapters() -> Vec<Adapter> {
    let wanted = std::env::var("INTACT_GPU").unwrap_or_default();
    let adapters = if wanted.is_empty() {
        Adapter::all()
    } else {
        vec![Adapter::choose(&wanted).expect("the adapter that INTACT_GPU names")]
    };
    if let Ok(expected) = std::env::var("INTACT_GPU_EXPECT") {
        let found: Vec<&str> = adapters.iter().map(|adapter| adapter.backend).collect();
        assert_eq!(found.join(","), expected, "adapters of this machine");
    }
    if adapters.is_empty() {
        println!("no GPU adapter on this machine: nothing is tested");
    }
    adapters
}
