// What the head takes over from the body: the rows of the tokens whose logits are asked for.
struct Params {
    input: u32,
    out: u32,
    width: u32,
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.width) {
        let token = step[step[2] + id.y];
        arena[params.out + id.y * params.width + id.x] = arena[params.input + token * params.width + id.x];
    }
}
