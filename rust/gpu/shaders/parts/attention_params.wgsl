struct Params {
    query: u32,
    key: u32,
    value: u32,
    out: u32,
    queries: u32,
    window: u32,
    scale: i32,
    scale_shift: i32,
    inverse: i32,
    inverse_shift: i32,
    cap: i32,
    cap_shift: i32,
}
