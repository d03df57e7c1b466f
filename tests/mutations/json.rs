//! Mutations of JSON that keep it JSON, mostly.

use crate::random::Random;
use serde_json::{Map, Value, json};

/// The least and the greatest value that the contract allows for the integer of that key.
pub(crate) type Limits = [(&'static str, i64, i64)];

/// A key that ends so becomes, in the text, a second one of the same name.
const TWICE: &str = "@twice";
/// A text that becomes many opening brackets.
const DEEP: &str = "@deep";
const DEPTH: usize = 50_000;

/// The JSON text, with what a [`Value`] cannot hold.
pub(crate) fn text(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains('@') {
        return text;
    }
    text.replace(&format!("{TWICE}\""), "\"").replace(&format!("\"{DEEP}\""), &"[".repeat(DEPTH))
}

/// Sets a key of an object; what is no object, since another mutation has replaced it, stays as it is.
pub(crate) fn set(object: Option<&mut Value>, key: &str, value: Value) {
    if let Some(Value::Object(map)) = object {
        map.insert(key.to_owned(), value);
    }
}

/// Changes one node of `root`, which a random walk from the root finds, and says what it did.
pub(crate) fn mutate(root: &mut Value, limits: &Limits, random: &mut Random) -> String {
    let (pointer, key) = walk(root, random);
    let (other, _) = walk(root, random);
    let other = root.pointer(&other).cloned().unwrap_or_default();
    let Some(node) = root.pointer_mut(&pointer) else { return String::new() };
    let done = node_mutation(node, &key, other, limits, random);
    format!("{pointer}: {done}")
}

/// The pointer to a node and the last key on the way to it. Every level is as likely as any other.
fn walk(root: &Value, random: &mut Random) -> (String, String) {
    let (mut node, mut pointer, mut key) = (root, String::new(), String::new());
    loop {
        if !pointer.is_empty() && random.one_in(6) {
            return (pointer, key);
        }
        node = match node {
            Value::Array(items) if !items.is_empty() => {
                let index = random.below(items.len());
                pointer.push_str(&format!("/{index}"));
                &items[index]
            }
            Value::Object(map) if !map.is_empty() => {
                let Some((name, value)) = map.iter().nth(random.below(map.len())) else { return (pointer, key) };
                pointer.push_str(&format!("/{}", name.replace('~', "~0").replace('/', "~1")));
                key.clone_from(name);
                value
            }
            _ => return (pointer, key),
        };
    }
}

fn node_mutation(node: &mut Value, key: &str, other: Value, limits: &Limits, random: &mut Random) -> String {
    if random.one_in(8) {
        let kinds =
            [json!(null), json!(true), json!(0), json!(-1), json!(1.5), json!(""), json!([]), json!({}), json!(DEEP)];
        *node = if random.one_in(3) { other } else { random.pick(&kinds).clone() };
        return format!("replaced by {}", shown(node));
    }
    match node {
        Value::Null => *node = other,
        Value::Bool(value) => *value = !*value,
        Value::Number(number) if number.is_f64() => {
            *node = json!(random.pick(&[0.0, -0.0, 5e-324, 1e-310, 1.0, -1.0, 1e30, 1.7e308, 0.999_999_999_999]));
        }
        Value::Number(number) => {
            let original = number.as_i128().unwrap_or_default();
            let limit = limits.iter().find(|(name, ..)| *name == key);
            *node = integer(match limit {
                Some(&(_, low, high)) if !random.one_in(4) => match random.below(6) {
                    0 => i128::from(low) - 1,
                    1 => i128::from(high) + 1,
                    2 => i128::from(low),
                    3 => i128::from(high),
                    _ => i128::from(random.between(low, high)),
                },
                _ => random.integer(original),
            });
        }
        Value::String(text) => match other {
            Value::String(other) if !random.one_in(3) => *text = other,
            _ => *text = random.text(text),
        },
        Value::Array(items) => return array(items, other, random),
        Value::Object(map) => return object(map, other, random),
    }
    format!("now {}", shown(node))
}

/// The number as JSON has it: a float where it leaves 64 bits.
pub(crate) fn integer(value: i128) -> Value {
    match (u64::try_from(value), i64::try_from(value)) {
        (Ok(value), _) => json!(value),
        (_, Ok(value)) => json!(value),
        _ => json!(value as f64),
    }
}

fn array(items: &mut Vec<Value>, other: Value, random: &mut Random) -> String {
    /// Enough for work that grows with the square of the length to be noticed, and the most bytes of text for it.
    const MANY: usize = 30_000;
    const MOST: usize = 8 << 20;
    if items.is_empty() {
        items.push(other);
        return "an item in the empty list".into();
    }
    let (a, b) = (random.below(items.len()), random.below(items.len()));
    let bomb = random.one_in(150);
    match if bomb { 6 } else { random.below(6) } {
        0 => drop(items.remove(a)),
        1 => items.insert(b, items[a].clone()),
        2 => items.swap(a, b),
        3 => items[a] = other,
        4 => items.truncate(a),
        5 => items[a..].reverse(),
        _ => {
            let all = items.clone();
            let size = 1 + all.iter().map(|item| item.to_string().len()).sum::<usize>() / all.len();
            items.extend(all.into_iter().cycle().take(MANY.min(MOST / size)));
        }
    }
    format!("items {a} and {b} changed, {} now", items.len())
}

fn object(map: &mut Map<String, Value>, other: Value, random: &mut Random) -> String {
    let keys: Vec<String> = map.keys().cloned().collect();
    if keys.is_empty() {
        map.insert("x".into(), other);
        return "a key in the empty object".into();
    }
    let (a, b) = (random.pick(&keys), random.pick(&keys));
    match random.below(6) {
        0 => {
            map.remove(a);
            format!("{} removed", shown(&json!(a)))
        }
        1 => {
            let (value, name) = (map.remove(a).unwrap_or_default(), random.text(a));
            map.insert(name, value);
            format!("{} renamed", shown(&json!(a)))
        }
        2 => {
            let value = map[b].clone();
            map.insert(format!("{a}{TWICE}"), value);
            format!("{} twice", shown(&json!(a)))
        }
        3 => {
            let value = map[a].clone();
            let value = map.insert(b.clone(), value).unwrap_or_default();
            map.insert(a.clone(), value);
            format!("{} and {} swapped", shown(&json!(a)), shown(&json!(b)))
        }
        4 => {
            let value = map[b].clone();
            map.insert(a.clone(), value);
            format!("{} has the value of {}", shown(&json!(a)), shown(&json!(b)))
        }
        _ => {
            map.insert(random.text("x"), other);
            "a key more".into()
        }
    }
}

/// A value short enough for a message.
fn shown(value: &Value) -> String {
    value.to_string().chars().flat_map(char::escape_default).take(60).collect()
}
