//! Programs: operations out of order, slots exchanged, constants at the contract's limits and beyond.

use crate::json::{self, Limits};
use crate::random::Random;
use serde_json::{Value, json};

const I32_MAX: i64 = i32::MAX as i64;

const CONSTANTS: &Limits = &[
    ("gain_shift", 0, 127),
    ("epsilon", 0, (1 << 44) - 1),
    ("root", 1 << 14, (1 << 15) - 1),
    ("root_shift", 0, 127),
    ("head_width", 1, 4096),
    ("heads", 1, 64),
    ("kv_heads", 1, 64),
    ("window", 0, 1 << 24),
    ("query_max", 1, 32_385),
    ("key_max", 1, 32_385),
    ("value_max", 1, 127),
    ("scale", 1 << 14, (1 << 15) - 1),
    ("scale_shift", -127, 127),
    ("inverse", 0, I32_MAX),
    ("inverse_shift", -127, 127),
    ("cap", 0, I32_MAX),
    ("cap_shift", -127, 127),
];

/// Keys of operations that name a slot, or slots.
const SLOTS: [&str; 10] = ["in", "out", "slot", "query", "key", "value", "gate", "up", "into", "from"];

/// Changes `program` in one place and says how.
pub(crate) fn mutate(program: &mut Value, random: &mut Random) -> String {
    if random.one_in(150) {
        return crowd(program, random);
    }
    match random.below(8) {
        0..3 => constants(program, random),
        3 => format!("program{}", json::mutate(program, CONSTANTS, random)),
        4 | 5 => slots(program, random),
        _ => operations(program, random),
    }
}

/// Gives every occurrence of a constant, or one, another value that the contract allows, or one just beyond.
fn constants(program: &mut Value, random: &mut Random) -> String {
    let &(key, low, high) = random.pick(CONSTANTS);
    let value = match random.below(8) {
        0 => low,
        1 => high,
        2 => *random.pick(&[low - 1, high + 1]),
        3 => 1_i64 << random.below(1 + high.ilog2() as usize),
        _ => random.between(low, high),
    };
    let all = random.one_in(2);
    let mut places = Vec::new();
    find(program, "", &mut |pointer, name| {
        if name == key {
            places.push(pointer.to_owned());
        }
    });
    if places.is_empty() {
        return format!("no {key}");
    }
    let one = random.below(places.len());
    for (_, place) in places.iter().enumerate().filter(|(i, _)| all || *i == one) {
        if let Some(node) = program.pointer_mut(place) {
            *node = json!(value);
        }
    }
    format!("{} {key} is {value}", if all { "every" } else { "one" })
}

/// Calls `each` with the pointer to, and the key of, every value in an object.
fn find(node: &Value, pointer: &str, each: &mut dyn FnMut(&str, &str)) {
    match node {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| find(item, &format!("{pointer}/{i}"), each));
        }
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let pointer = format!("{pointer}/{key}");
            each(&pointer, key);
            find(value, &pointer, each);
        }),
        _ => {}
    }
}

/// Every place that names a slot, with the slot's name.
fn slot_places(program: &Value) -> Vec<(String, String)> {
    let mut pointers = Vec::new();
    find(program, "", &mut |pointer, key| {
        if SLOTS.contains(&key) {
            pointers.push(pointer.to_owned());
        }
    });
    let mut places = Vec::new();
    for pointer in pointers {
        match program.pointer(&pointer) {
            Some(Value::String(name)) => places.push((pointer, name.clone())),
            Some(Value::Array(names)) => {
                let names = names.iter().enumerate().filter_map(|(i, name)| Some((i, name.as_str()?)));
                places.extend(names.map(|(i, name)| (format!("{pointer}/{i}"), name.to_owned())));
            }
            _ => {}
        }
    }
    places
}

/// Renames slots: one place, both of two exchanged, or all places of one.
fn slots(program: &mut Value, random: &mut Random) -> String {
    let places = slot_places(program);
    if places.is_empty() {
        return "no slots".into();
    }
    let (place, from) = random.pick(&places).clone();
    // A long name in many places would be a file out of all proportion.
    let to = if random.one_in(8) && places.len() < 1_000 { random.text(&from) } else { random.pick(&places).1.clone() };
    let mut set = |place: &str, name: &str| {
        if let Some(node) = program.pointer_mut(place) {
            *node = json!(name);
        }
    };
    match random.below(3) {
        0 => {
            places.iter().filter(|(_, name)| *name == from).for_each(|(place, _)| set(place, &to));
            format!("every slot {from} is {to:.40?}")
        }
        1 => {
            for (place, name) in &places {
                match name {
                    name if *name == from => set(place, &to),
                    name if *name == to => set(place, &from),
                    _ => {}
                }
            }
            format!("slots {from} and {to:.40?} exchanged")
        }
        _ => {
            set(&place, &to);
            format!("{place}: slot {from} is {to:.40?}")
        }
    }
}

/// Removes, repeats, moves and inserts operations.
fn operations(program: &mut Value, random: &mut Random) -> String {
    let lists = ["body", "head"];
    let (from, to) = (*random.pick(&lists), *random.pick(&lists));
    let names: Vec<String> = slot_places(program).into_iter().map(|(_, name)| name).collect();
    let count = program[from].as_array().map_or(0, Vec::len);
    if count == 0 || names.is_empty() {
        return format!("no operations in {from}");
    }
    let at = random.below(count);
    let Some(Value::Array(ops)) = program.get_mut(from) else { return String::new() };
    match random.below(6) {
        0 => {
            let op = ops.remove(at);
            format!("{from}[{at}] {} removed", op["op"])
        }
        1 => {
            ops.insert(at, ops[at].clone());
            format!("{from}[{at}] {} twice", ops[at]["op"])
        }
        2 => {
            let other = random.below(count);
            ops.swap(at, other);
            format!("{from}[{at}] and {from}[{other}] exchanged")
        }
        3 => {
            let op = ops.remove(at);
            let name = op["op"].clone();
            let Some(Value::Array(ops)) = program.get_mut(to) else { return format!("{from}[{at}] {name} lost") };
            let place = random.below(ops.len() + 1);
            ops.insert(place, op);
            format!("{from}[{at}] {name} moved to {to}[{place}]")
        }
        _ => {
            let op = operation(&names, random);
            let what = format!("{from}[{at}]: {op} inserted");
            ops.insert(at, op);
            what
        }
    }
}

/// An operation whose constants are in range, on slots of the program.
fn operation(names: &[String], random: &mut Random) -> Value {
    let [a, b, c] = [0; 3].map(|_| random.pick(names).as_str());
    let shift = |random: &mut Random| random.between(-127, 127);
    let kind = *random.pick(&["swiglu", "geglu", "relu2"]);
    match random.below(5) {
        0 => json!({"op": "hadamard", "slot": a, "head_width": 1 << random.below(8)}),
        1 => json!({
            "op": "softcap", "slot": a, "inverse": random.between(0, I32_MAX), "inverse_shift": shift(random),
            "cap": random.between(0, I32_MAX), "cap_shift": shift(random),
        }),
        2 => json!({"op": "activation", "kind": kind, "slot": a}),
        3 => json!({"op": "residual_add", "into": a, "from": b}),
        _ => json!({"op": "gated_activation", "kind": kind, "gate": a, "up": b, "out": c}),
    }
}

/// So many slots that work which grows with the square of their number is noticed.
fn crowd(program: &mut Value, random: &mut Random) -> String {
    const MANY: usize = 25_000;
    let list = *random.pick(&["body", "head"]);
    // As above, no long names in many places.
    let names: Vec<String> =
        slot_places(program).into_iter().map(|(_, name)| name).filter(|name| name.len() < 20).collect();
    let Some(Value::Array(ops)) = program.get_mut(list).filter(|_| !names.is_empty()) else { return String::new() };
    if random.one_in(2) {
        let slot = random.pick(&names).as_str();
        let one =
            |i| json!({"op": "gated_activation", "kind": "relu2", "gate": slot, "up": slot, "out": format!("s{i}")});
        ops.splice(ops.len().min(3)..ops.len().min(3), (0..MANY).map(one));
        return format!("{MANY} slots from {slot} in {list}");
    }
    for op in ops.iter_mut().filter(|op| op["op"] == "linear") {
        let matrix = op["matrices"][0].clone();
        json::set(Some(op), "matrices", json!(vec![matrix; MANY]));
        // The last slot is the first again: all are looked at, and the model is refused before it runs for long.
        json::set(Some(op), "out", (0..MANY - 1).chain([0]).map(|i| json!(format!("s{i}"))).collect());
    }
    format!("{MANY} outputs of every linear in {list}")
}
