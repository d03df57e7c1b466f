//! What goes wrong on a device is an error that names the adapter and what to do.

use super::{adapters, models};
use intact::core::cpu::{Batch, Token};
use intact::core::executor::{Executor, Fault};
use intact_gpu::Adapter;

#[test]
fn a_lost_device_is_an_error() {
    for adapter in adapters() {
        let mut gpu = models::gpu(&adapter.open().expect("opens"), &models::load(&models::models()[0]));
        let tokens = [Token { id: 1, sequence: 0, position: 0, logits: true }];
        let batch = Batch { tokens: &tokens, tables: &[&[0]] };
        gpu.forward(&batch, &mut Vec::new(), None).expect("runs");
        gpu.gpu().lose();
        for attempt in 0..3 {
            let errors = [
                gpu.forward(&batch, &mut Vec::new(), None),
                gpu.save(0, &mut Vec::new()),
                gpu.reserve(1000 * (attempt + 1)),
            ];
            for (call, error) in errors.into_iter().enumerate() {
                let Err(Fault::Device(message)) = error else { panic!("attempt {attempt}, call {call}: {error:?}") };
                assert!(message.contains(adapter.label()) && message.contains("device=\"cpu\""), "{message}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    for adapter in adapters() {
        let mut gpu = models::gpu(&adapter.open().expect("opens"), &models::load(&models::models()[0]));
        let pages = gpu.pages();
        let error = gpu.reserve(1 << 34).expect_err("more than any device has");
        let Fault::OutOfMemory { what, bytes } = error else { panic!("{error:?}") };
        assert!(what.contains(adapter.label()) && bytes > 1 << 34, "{what}: {bytes}");
        assert_eq!(gpu.pages(), pages);
        let tokens = [Token { id: 1, sequence: 0, position: 0, logits: true }];
        gpu.forward(&Batch { tokens: &tokens, tables: &[&[0]] }, &mut Vec::new(), None).expect("still runs");
    }
}

#[test]
fn an_adapter_that_is_not_there_is_an_error() {
    let Err(error) = Adapter::choose("teapot") else { panic!("there is a teapot") };
    let message = error.to_string();
    assert!(message.starts_with("no GPU adapter \"teapot\"; this machine has "), "{message}");
    for adapter in Adapter::all() {
        assert!(message.contains(adapter.label()), "{message}");
        for wanted in [adapter.label().to_owned(), adapter.label().to_uppercase()] {
            assert_eq!(Adapter::choose(&wanted).expect("it is there").label(), adapter.label());
        }
        assert_eq!(Adapter::choose(adapter.backend).expect("it is there").backend, adapter.backend);
    }
}
