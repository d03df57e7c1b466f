//! Hugging Face directories.
use intact_quantize::error::Error;
use intact_quantize::import::{DType, Source, TokenizerFiles};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A name, an element type, a shape and the elements' bytes.
type Entry<'a> = (&'a str, Dtype, &'a [usize], &'a [u8]);

const EMBEDDING: Entry<'_> = ("model.embed_tokens.weight", Dtype::F32, &[2, 1], &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
const NORM: Entry<'_> = ("model.norm.weight", Dtype::BF16, &[2], &[0x80, 0x3f, 0, 0xc0]);
const HEAD: Entry<'_> = ("lm_head.weight", Dtype::F16, &[2, 1], &[0, 0x3c, 0, 0xc0]);

fn file(entries: &[Entry<'_>]) -> Vec<u8> {
    let views = entries.iter().map(|&(name, dtype, shape, bytes)| {
        let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        (name.to_owned(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// Opens a directory with these files.
fn open(files: &[(&str, &[u8])]) -> Result<Source, Error> {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    Source::open(directory.path())
}

/// Opens a directory with one weight file.
fn open_single(config: &Value, entries: &[Entry<'_>]) -> Result<Source, Error> {
    open(&[("config.json", config.to_string().as_bytes()), ("model.safetensors", &file(entries))])
}

/// Opens a directory with an index and two weight files, `a.safetensors` and `b.safetensors`.
fn open_indexed(weight_map: &Value) -> Result<Source, Error> {
    open(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", json!({"weight_map": weight_map}).to_string().as_bytes()),
        ("a.safetensors", &file(&[EMBEDDING])),
        ("b.safetensors", &file(&[NORM, HEAD])),
    ])
}

#[track_caller]
fn assert_refused(result: Result<Source, Error>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn tensors_keep_names_shapes_and_values() {
    let config = json!({"z": 1, "model_type": "llama", "rope_theta": 1e4});
    let source = open_single(&config, &[HEAD, EMBEDDING, NORM]).unwrap();
    assert_eq!(serde_json::to_string(&source.config).unwrap(), config.to_string());
    assert_eq!(source.tensors.keys().collect::<Vec<_>>(), [HEAD.0, EMBEDDING.0, NORM.0]);
    for (entry, dtype) in [(HEAD, DType::F16), (EMBEDDING, DType::F32)] {
        let tensor = &source.tensors[entry.0];
        assert_eq!((tensor.dtype, &tensor.shape[..], tensor.rows(), tensor.columns()), (dtype, entry.2, 2, 1));
        let mut row = [0.0];
        for (index, value) in [(0, 1.0_f32), (1, -2.0)] {
            tensor.row_f32(index, &mut row).unwrap();
            assert_eq!(row[0].to_bits(), value.to_bits());
        }
    }
    let norm = &source.tensors[NORM.0];
    assert_eq!((norm.dtype, norm.rows(), norm.columns()), (DType::BF16, 1, 2));
    assert_eq!(
        norm.vector_f32().unwrap().iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
        [0x3f80_0000, 0xc000_0000]
    );
}

#[test]
fn the_head_is_present_where_it_is_not_the_embedding() {
    let has_head = |tie: Value, entries: &[Entry<'_>]| {
        let source = open_single(&json!({"tie_word_embeddings": tie}), entries)?;
        Ok::<_, Error>(source.tensors.contains_key(HEAD.0))
    };
    assert!(!has_head(json!(true), &[EMBEDDING]).unwrap());
    assert!(!has_head(json!(true), &[EMBEDDING, HEAD]).unwrap());
    assert!(has_head(json!(false), &[EMBEDDING, HEAD]).unwrap());
    assert!(has_head(Value::Null, &[EMBEDDING, HEAD]).unwrap());
    assert!(!has_head(Value::Null, &[EMBEDDING]).unwrap());
    let error = has_head(json!(false), &[EMBEDDING]).unwrap_err().to_string();
    assert!(error.contains("config.json: tie_word_embeddings") && error.contains("lm_head.weight"), "{error}");
}

#[test]
fn text_files_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [("config.json", &b"{}"[..]), ("model.safetensors", &file(&[NORM]))] {
        fs::write(directory.path().join(name), content).unwrap();
    }
    for name in ["tokenizer.json", "chat_template.jinja", "README.md"] {
        fs::write(directory.path().join(name), "x").unwrap();
    }
    let TokenizerFiles::HuggingFace(files) = Source::open(directory.path()).unwrap().tokenizer else {
        panic!("not Hugging Face's")
    };
    assert_eq!(files.keys().collect::<Vec<_>>(), ["chat_template.jinja", "tokenizer.json"]);
    assert_eq!(files["tokenizer.json"], directory.path().join("tokenizer.json"));
}

#[test]
fn an_index_joins_files() {
    let source = open_indexed(&json!({EMBEDDING.0: "a.safetensors", NORM.0: "b.safetensors", HEAD.0: "b.safetensors"}));
    assert_eq!(source.unwrap().tensors.len(), 3);
}

#[test]
fn an_index_must_agree_with_its_files() {
    let index = "model.safetensors.index.json";
    let map = |embedding: &str, norm: &str| json!({EMBEDDING.0: embedding, NORM.0: norm, HEAD.0: "b.safetensors"});
    assert_refused(open_indexed(&map("a.safetensors", "a.safetensors")), &[index, NORM.0, "b.safetensors"]);
    assert_refused(open_indexed(&json!({NORM.0: "b.safetensors"})), &[index, HEAD.0, "does not say so"]);
    let mut extra = map("a.safetensors", "b.safetensors");
    extra["extra"] = json!("a.safetensors");
    assert_refused(open_indexed(&extra), &[index, "extra", "does not hold"]);
    assert_refused(open_indexed(&map("c.safetensors", "b.safetensors")), &["c.safetensors", "cannot be read"]);
    for outside in ["../a.safetensors", "/a.safetensors", "..\\a.safetensors", "c:a.safetensors", "a.bin", ".."] {
        assert_refused(open_indexed(&map(outside, "b.safetensors")), &[index, EMBEDDING.0, "no plain"]);
    }
    for weight_map in [json!([]), Value::Null] {
        assert_refused(open_indexed(&weight_map), &[index, "weight_map", "missing"]);
    }
}

#[test]
fn other_elements_and_shapes_are_named() {
    let entry: Entry<'_> = ("ids", Dtype::I64, &[1], &[0; 8]);
    assert_refused(open_single(&json!({}), &[entry]), &["model.safetensors", "\"ids\"", "I64", "store it as"]);
    for (shape, bytes) in [(&[1, 1, 1][..], &[0; 4][..]), (&[], &[0; 4]), (&[0], &[]), (&[2, 0], &[])] {
        let entry: Entry<'_> = ("odd", Dtype::F32, shape, bytes);
        assert_refused(open_single(&json!({}), &[entry]), &["\"odd\"", "the shape"]);
    }
}

#[test]
fn configurations_are_checked() {
    let weights = file(&[NORM]);
    for (config, part) in [("[1]", "no object"), ("{", "EOF"), ("", "EOF"), (&"[".repeat(1000), "recursion")] {
        let result = open(&[("config.json", config.as_bytes()), ("model.safetensors", &weights)]);
        assert_refused(result, &["config.json", "JSON", part]);
    }
    assert_refused(open(&[("model.safetensors", &weights)]), &["config.json", "cannot be read"]);
    for (quantization, method) in [(json!({"quant_method": "hqq"}), "hqq"), (json!({}), "unnamed method")] {
        let result = open_single(&json!({"quantization_config": quantization}), &[NORM]);
        assert_refused(result, &["config.json", "already quantized with", method, "unquantized checkpoint"]);
    }
    assert!(open_single(&json!({"quantization_config": null}), &[NORM]).is_ok());
}

#[test]
fn damaged_files_are_refused() {
    let whole = file(&[EMBEDDING, NORM, HEAD]);
    for length in 0..whole.len() {
        let result = open(&[("config.json", b"{}"), ("model.safetensors", &whole[..length])]);
        assert_refused(result, &["model.safetensors", "safetensors header"]);
    }
    let mut announced = whole.clone();
    announced[..8].fill(0xff);
    assert_refused(open(&[("config.json", b"{}"), ("model.safetensors", &announced)]), &["header too large"]);
    let not_finite: Entry<'_> = ("x", Dtype::F16, &[2, 1], &[0, 0, 0, 0xfc]);
    let source = open_single(&json!({}), &[not_finite]).unwrap();
    let error = source.tensors["x"].row_f32(1, &mut [0.0]).unwrap_err().to_string();
    assert!(error.contains("tensor x, row 1") && error.contains("NaN or infinite"), "{error}");
}

#[test]
fn what_is_no_checkpoint() {
    assert_refused(open(&[("config.json", b"{}")]), &["neither model.safetensors", "pass a GGUF file"]);
    assert_refused(open(&[("a.gguf", b""), ("b.gguf", b"")]), &["several GGUF models", "pass the file"]);
    assert_refused(open(&[("a.gguf", b"")]), &["a.gguf", "magic"]);
    assert_refused(Source::open(Path::new("no such directory")), &["no such directory", "cannot be read"]);
}
