//! What a standard library needs and the C library of its target lacks: on WebAssembly, the functions of threads.
//!
//! Its first preview has no threads, so that each of them fails, as in releases of wasi-libc after Debian's.
#![no_std]

#[cfg(target_os = "wasi")]
macro_rules! unsupported {
    ($($name:ident($($argument:ident),*))*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($(_: unsupported!(@ $argument)),*) -> i32 {
                const ENOTSUP: i32 = 58;
                ENOTSUP
            }
        )*
    };
    (@ $argument:ident) => { usize };
}

#[cfg(target_os = "wasi")]
unsupported! {
    pthread_attr_init(attributes)
    pthread_attr_setstacksize(attributes, size)
    pthread_attr_destroy(attributes)
    pthread_create(thread, attributes, start, argument)
    pthread_join(thread, result)
    pthread_detach(thread)
}
