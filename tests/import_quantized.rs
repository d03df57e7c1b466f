//! Checkpoints that other quantizers packed: GPTQ, AWQ, compressed-tensors, BitNet. The packing is written in
//! `quantized_support` from the formats' definitions, one number after the other.
#![allow(clippy::float_arithmetic, reason = "expected weights are computed from the definition")]
mod convert_support;
mod quantized_support;

use convert_support::{Checkpoint, HIDDEN, INTERMEDIATE};
use intact_core::certify::certify;
use intact_core::cpu::Pool;
use intact_quantize::convert::{Options, convert};
use intact_quantize::import::{Blocks, DType, Shift, Source, Tensor};
use quantized_support::{
    BASE, COLUMNS, Entries, NAME, Plain, ROWS, awq, compressed, entries, gptq, in_order, numbers, open, pack_rows,
    scales, singles, transposed, words,
};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// The tensor, which must hold exactly the matrix's weights.
#[track_caller]
fn assert_holds(quantization: &Value, entries: &Entries, plain: &Plain) -> Tensor {
    let source = open(quantization, entries).unwrap();
    assert_eq!(source.tensors.keys().collect::<Vec<_>>(), [NAME]);
    let tensor = source.tensors[NAME].clone();
    assert_eq!((tensor.dtype, &tensor.shape[..]), (DType::Packed, &[ROWS, COLUMNS][..]));
    let (mut values, mut blocks) = ([0.0; COLUMNS], Blocks::default());
    for row in 0..ROWS {
        tensor.row_f32(row, &mut values).unwrap();
        let expected: Vec<u32> = (0..COLUMNS).map(|column| plain.weight(row, column).to_bits()).collect();
        assert_eq!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), expected, "row {row}");
        if let Some(grid) = tensor.grid() {
            tensor.row_blocks(row, &mut blocks).unwrap();
            assert_eq!(blocks.grid, grid);
            assert!(blocks.codes.iter().zip(&plain.codes[row * COLUMNS..]).all(|(&a, &b)| u32::from(a) == b));
            assert!((0..COLUMNS).all(|k| (blocks.weight(k) as f32).to_bits() == expected[k]));
        }
    }
    tensor
}

#[test]
fn gptq_in_all_widths_and_both_versions() {
    for (bits, group) in [(2, 32), (4, 32), (4, 48), (8, 32)] {
        let plain = Plain::new(bits, group);
        let tensor = assert_holds(&gptq(bits, group as i64), &plain.gptq(1), &plain);
        assert_eq!(tensor.grid().unwrap().shift, Shift::ZeroPoint);
        let mut second = gptq(bits, group as i64);
        second["checkpoint_format"] = json!("gptq_v2");
        assert_holds(&second, &plain.gptq(0), &plain);
        let plain = plain.symmetric();
        let tensor = assert_holds(&gptq(bits, group as i64), &plain.gptq(1), &plain);
        assert_eq!(tensor.grid().unwrap().shift, Shift::None);
    }
    let plain = Plain::new(4, COLUMNS);
    let mut entries = plain.gptq(1);
    entries.remove(&format!("{BASE}.g_idx"));
    assert_holds(&gptq(4, -1), &entries, &plain);
}

#[test]
fn groups_in_another_order_are_values_only() {
    let mut plain = Plain::new(4, 32);
    plain.group_of = (0..COLUMNS).map(|column| column * 7 % 3).collect();
    let tensor = assert_holds(&gptq(4, 32), &plain.gptq(1), &plain);
    assert_eq!(tensor.grid(), None);
    let error = tensor.row_blocks(0, &mut Blocks::default()).unwrap_err().to_string();
    assert!(error.contains(NAME) && error.contains("lie apart") && error.contains("row_f32"), "{error}");
    let mut entries = plain.packed();
    let order: Vec<u32> = plain.group_of.iter().map(|&group| group as u32).collect();
    let name = format!("{BASE}.weight_g_idx");
    entries.insert(name.clone(), (Dtype::I32, vec![COLUMNS], words(&order)));
    assert_eq!(assert_holds(&compressed("pack-quantized", 4, Some(32)), &entries, &plain).grid(), None);
    // Nothing but −1 means that there is no order.
    let plain = Plain::new(4, 32);
    let mut entries = plain.packed();
    entries.insert(name, (Dtype::I32, vec![COLUMNS], vec![0xff; 4 * COLUMNS]));
    assert!(assert_holds(&compressed("pack-quantized", 4, Some(32)), &entries, &plain).grid().is_some());
}

#[test]
fn awq_interleaves_outputs() {
    for group in [32, 96] {
        let plain = Plain::new(4, group);
        assert_holds(&awq(group as i64), &plain.awq(), &plain);
    }
}

#[test]
fn compressed_tensors_in_both_forms() {
    for (bits, group) in [(4, Some(32)), (4, Some(16)), (8, Some(96)), (2, Some(32)), (4, None), (8, None)] {
        let plain = Plain::new(bits, group.unwrap_or(COLUMNS));
        assert_holds(&compressed("pack-quantized", bits, group), &plain.packed(), &plain);
        let mut unpacked = plain.packed();
        let signed = plain.zeros.iter().map(|&zero| (zero as u8).wrapping_sub(1 << (bits - 1))).collect();
        unpacked.insert(format!("{NAME}_zero_point"), (Dtype::I8, vec![ROWS, plain.groups], signed));
        assert_holds(&compressed("pack-quantized", bits, group), &unpacked, &plain);
        let plain = plain.symmetric();
        let mut bare = plain.packed();
        bare.remove(&format!("{NAME}_zero_point"));
        assert_eq!(
            assert_holds(&compressed("pack-quantized", bits, group), &bare, &plain).grid().unwrap().shift,
            Shift::None
        );
    }
    for group in [None, Some(32)] {
        let plain = Plain::new(8, group.unwrap_or(COLUMNS));
        assert_holds(&compressed("int-quantized", 8, group), &plain.bytes(), &plain);
    }
    let mut plain = Plain::new(8, COLUMNS).symmetric();
    plain.scales.fill(0.0625);
    let mut entries = plain.bytes();
    entries.remove(&format!("{NAME}_zero_point"));
    entries.insert(format!("{NAME}_scale"), (Dtype::BF16, vec![], vec![0x80, 0x3d]));
    let mut config = compressed("int-quantized", 8, None);
    config["config_groups"]["group_0"]["weights"]["strategy"] = json!("tensor");
    assert_holds(&config, &entries, &plain);
}

/// What `pack_to_int32` of the package compressed-tensors and `pack_weights` of transformers give.
#[test]
fn words_are_those_of_the_quantizers() {
    let rows: Vec<u32> = (0..3).flat_map(|r| (0..12).map(move |i| (7 * i + 3 * r) % 16)).collect();
    let packed = [0x1a3c_5e70, 0xd6f8, 0x4d6f_81a3, 0x092b, 0x7092_b4d6, 0x3c5e];
    assert_eq!(pack_rows(&rows, 12, 4, &in_order(4)), packed);
    let zeros: Vec<u32> = (0..10).flat_map(|r| (0..2).map(move |g| (5 * r + g) % 16)).collect();
    let packed = transposed(&pack_rows(&transposed(&zeros, 2), 10, 4, &in_order(4)), 2);
    assert_eq!(packed, [0x3e94_fa50, 0x4fa5_0b61, 0x00d8, 0x00e9]);

    let scale = [0x3f00_u16, 0x4080].map(u16::to_le_bytes);
    let codes = [24, 97, 97, 24, 97, 97, 134, 134, 97, 134];
    for (class, scale, size) in [("autobitlinear", scale[0], 0.5), ("bitlinear", scale[1], 0.25)] {
        let entries = entries([
            ("weight", Dtype::U8, vec![2, 5], codes.to_vec()),
            ("weight_scale", Dtype::BF16, vec![1], scale.to_vec()),
        ]);
        let source = open(&json!({"quant_method": "bitnet", "linear_class": class}), &entries).unwrap();
        let tensor = &source.tensors[NAME];
        assert_eq!(tensor.shape, [8, 5]);
        let mut values = [0.0; 5];
        for r in 0..8_u16 {
            tensor.row_f32(usize::from(r), &mut values).unwrap();
            let expected: Vec<f32> = (0..5).map(|i| size * (f32::from((i * i + r) % 3) - 1.0)).collect();
            assert!(values.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{class} row {r}");
        }
    }
}

#[test]
fn masters_become_ternary() {
    let master = [0.3, -0.05, 0.11, -0.7, 0.02, 0.4, -0.3, 0.1];
    let entries = entries([("weight", Dtype::F32, vec![2, 4], singles(&master))]);
    let online = json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"});
    let source = open(&online, &entries).unwrap();
    // torch's own result.
    let size = 0.247_500_02_f32;
    let mut values = [0.0; 4];
    for (row, expected) in [[1.0, 0.0, 0.0, -1.0], [0.0, 1.0, -1.0, 0.0]].into_iter().enumerate() {
        source.tensors[NAME].row_f32(row, &mut values).unwrap();
        assert_eq!(values.map(f32::to_bits), expected.map(|level: f32| (level * size).to_bits()));
    }
    let mut excepted = online;
    excepted["modules_to_not_convert"] = json!(["up_proj"]);
    source_is_plain(&open(&excepted, &entries).unwrap());
    let not_finite = changed(&entries, "weight", |entry| entry.2[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    excepted["modules_to_not_convert"] = Value::Null;
    let error = open(&excepted, &not_finite).unwrap().tensors[NAME].row_f32(1, &mut values).unwrap_err().to_string();
    assert!(error.contains(NAME) && error.contains("row 0") && error.contains("NaN"), "{error}");
}

fn source_is_plain(source: &Source) {
    assert_eq!(source.tensors[NAME].dtype, DType::F32);
}

#[test]
fn bitnet_pieces_are_checked() {
    let config = |key: &str, value: Value| {
        let mut config = json!({"quant_method": "bitnet", "linear_class": "autobitlinear"});
        config[key] = value;
        config
    };
    let packed = |code: u8, scales: usize| {
        entries([
            ("weight", Dtype::U8, vec![1, 2], vec![0, code]),
            ("weight_scale", Dtype::F32, vec![scales], singles(&vec![0.5; scales])),
        ])
    };
    let plain = config("quantization_mode", json!("offline"));
    refuse(&plain, &packed(0, 2), &["weight_scale", "one scale"]);
    refuse(&plain, &without(&packed(0, 1), "weight_scale"), &["weight_scale", "is missing beside it"]);
    refuse(&config("use_rms_norm", json!(true)), &packed(0, 1), &["use_rms_norm"]);
    refuse(&config("linear_class", json!("other")), &packed(0, 1), &["linear_class", "other"]);
    refuse(&config("quantization_mode", json!("later")), &packed(0, 1), &["quantization_mode", "later"]);
    let source = open(&plain, &packed(0x30, 1)).unwrap();
    let (mut values, mut blocks) = ([0.0; 2], Blocks::default());
    source.tensors[NAME].row_f32(1, &mut values).unwrap();
    for error in [source.tensors[NAME].row_f32(2, &mut values), source.tensors[NAME].row_blocks(2, &mut blocks)] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(NAME) && error.contains("row 2") && error.contains("ternary"), "{error}");
    }
    let zero = changed(&packed(0, 1), "weight_scale", |entry| entry.2.fill(0));
    let source = open(&config("linear_class", json!("bitlinear")), &zero).unwrap();
    assert!(source.tensors[NAME].row_f32(0, &mut values).unwrap_err().to_string().contains("a scale"));
}

#[track_caller]
fn refuse(quantization: &Value, entries: &Entries, parts: &[&str]) {
    let message = open(quantization, entries).unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

fn changed(entries: &Entries, name: &str, change: impl FnOnce(&mut (Dtype, Vec<usize>, Vec<u8>))) -> Entries {
    let mut entries = entries.clone();
    change(entries.get_mut(&format!("{BASE}.{name}")).unwrap());
    entries
}

fn without(entries: &Entries, name: &str) -> Entries {
    let mut entries = entries.clone();
    entries.remove(&format!("{BASE}.{name}")).unwrap();
    entries
}

/// With as many rows as elements allow, one less.
fn shorter(entry: &mut (Dtype, Vec<usize>, Vec<u8>)) {
    let row = entry.2.len() / entry.1[0];
    entry.1[0] -= 1;
    entry.2.truncate(entry.2.len() - row);
}

#[test]
fn pieces_that_do_not_fit_are_named() {
    let plain = Plain::new(4, 32);
    let (g, a, c) = (plain.gptq(1), plain.awq(), plain.packed());
    let (gptq32, awq32, packed32) = (gptq(4, 32), awq(32), compressed("pack-quantized", 4, Some(32)));
    for (config, entries, names) in [
        (&gptq32, &g, &["qzeros", "scales", "g_idx"][..]),
        (&awq32, &a, &["qzeros", "scales"]),
        (&packed32, &c, &["weight_packed", "weight_scale", "weight_zero_point"]),
    ] {
        for name in names {
            refuse(
                config,
                &changed(entries, name, shorter),
                &["model.safetensors", &format!("{BASE}.{name}"), "its shape is"],
            );
            let wrong =
                changed(entries, name, |entry| entry.0 = if entry.0 == Dtype::I32 { Dtype::U32 } else { Dtype::I32 });
            refuse(config, &wrong, &["model.safetensors", &format!("{BASE}.{name}"), "its elements are"]);
        }
    }
    for (config, entries, name) in [
        (&gptq32, &g, "scales"),
        (&gptq32, &g, "qzeros"),
        (&awq32, &a, "scales"),
        (&packed32, &c, "weight_scale"),
        (&packed32, &c, "weight_shape"),
    ] {
        refuse(
            config,
            &without(entries, name),
            &["model.safetensors", &format!("{BASE}.{name}"), "is missing beside it"],
        );
    }
    refuse(&packed32, &without(&c, "weight_packed"), &["weight_shape", "I64"]);
    for group in [64, 36] {
        for (config, entries) in
            [(gptq(4, group), &g), (awq(group), &a), (compressed("pack-quantized", 4, Some(group as usize)), &c)]
        {
            refuse(&config, entries, &["config.json", "group_size", "does not divide", "96 columns"]);
        }
    }
    for number in [3, -2, i32::MAX, i32::MIN] {
        let wrong = changed(&g, "g_idx", |entry| entry.2[40..44].copy_from_slice(&number.to_le_bytes()));
        refuse(&gptq32, &wrong, &["g_idx", "column 10", &number.to_string()]);
    }
    let wrong = changed(&g, "qzeros", |entry| entry.2[0] |= 0x0f);
    refuse(&gptq32, &wrong, &["qzeros", "row 0, group 0", "zero point"]);
    let mut wrong = c.clone();
    wrong.insert(format!("{NAME}_zero_point"), (Dtype::I8, vec![ROWS, 3], vec![8; ROWS * 3]));
    refuse(&packed32, &wrong, &["weight_zero_point", "zero point beyond 4 bits"]);
    for shape in [[0, 96], [u64::MAX, 96], [16, 1 << 40], [16, 97], [17, 96]] {
        let wrong =
            changed(&c, "weight_shape", |entry| entry.2 = shape.iter().flat_map(|side| side.to_le_bytes()).collect());
        assert!(open(&packed32, &wrong).is_err(), "{shape:?}");
    }
    let mut twice = g.clone();
    twice.insert(NAME.to_owned(), (Dtype::F32, vec![1, 1], vec![0; 4]));
    refuse(&gptq32, &twice, &[NAME, "both packed and not"]);
    let flat = changed(&g, "qweight", |entry| entry.1 = vec![entry.1.iter().product()]);
    refuse(&gptq32, &flat, &["qweight", "not that of a matrix"]);
}

#[test]
fn scales_that_mean_nothing_are_named_with_their_row() {
    let plain = Plain::new(4, 32);
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let entries = changed(&plain.packed(), "weight_scale", |entry| {
            entry.2[4 * 3 * 5..][..4].copy_from_slice(&bad.to_le_bytes())
        });
        let source = open(&compressed("pack-quantized", 4, Some(32)), &entries).unwrap();
        let tensor = &source.tensors[NAME];
        let (mut values, mut blocks) = ([0.0; COLUMNS], Blocks::default());
        tensor.row_f32(4, &mut values).unwrap();
        for error in [tensor.row_f32(5, &mut values), tensor.row_blocks(5, &mut blocks)] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(NAME) && error.contains("row 5") && error.contains("a scale"), "{error}");
        }
    }
}

#[test]
fn settings_are_checked() {
    let plain = Plain::new(4, 32);
    let (g, a, c) = (plain.gptq(1), plain.awq(), plain.packed());
    let set = |mut config: Value, key: &str, value: Value| {
        config[key] = value;
        config
    };
    let (gptq32, awq32, packed32) = (gptq(4, 32), awq(32), compressed("pack-quantized", 4, Some(32)));
    refuse(&set(gptq32.clone(), "bits", json!(3)), &g, &["config.json", "bits", "3", "2, 4 or 8"]);
    refuse(&set(gptq32.clone(), "bits", json!("4")), &g, &["bits", "missing"]);
    refuse(&set(gptq32.clone(), "group_size", json!(0)), &g, &["group_size", "neither -1"]);
    refuse(&set(gptq32.clone(), "checkpoint_format", json!("marlin")), &g, &["checkpoint_format", "marlin", "gptq_v2"]);
    refuse(&set(gptq32.clone(), "dynamic", json!({"-:x": {}})), &g, &["dynamic", "one rule"]);
    assert!(open(&set(gptq32, "dynamic", json!({})), &g).is_ok());
    refuse(&set(awq32.clone(), "version", json!("gemv")), &a, &["version", "gemv", "gemm"]);
    refuse(&set(awq32, "bits", json!(8)), &a, &["bits", "4 bits"]);
    refuse(&set(packed32.clone(), "format", json!("float-quantized")), &c, &["format", "float-quantized"]);
    refuse(&set(packed32.clone(), "config_groups", json!({})), &c, &["config_groups", "missing or empty"]);
    refuse(&set(packed32.clone(), "sparsity_config", json!({"format": "sparse-24-bitmask"})), &c, &["sparsity_config"]);
    assert!(open(&set(packed32.clone(), "sparsity_config", json!({"format": "dense"})), &c).is_ok());
    let weights = |key: &str, value: Value| {
        let mut config = packed32.clone();
        config["config_groups"]["group_0"]["weights"][key] = value;
        config
    };
    refuse(&weights("type", json!("float")), &c, &["type of weights", "float"]);
    refuse(&weights("strategy", json!("block")), &c, &["strategy of weights", "block"]);
    refuse(&weights("num_bits", json!(3)), &c, &["num_bits", "3"]);
    let mut mixed = packed32;
    mixed["config_groups"]["group_1"] = json!({"weights": {"num_bits": 8}});
    refuse(&mixed, &c, &["config_groups", "different weights"]);
}

/// A whole model of which every projection is packed.
fn model(
    family: &str, quantization: Value, pack: impl Fn(&str, usize, usize, &mut Entries),
) -> (tempfile::TempDir, Source) {
    let checkpoint = Checkpoint::of(family);
    let mut entries = Entries::new();
    for (name, (shape, data)) in &checkpoint.tensors {
        match name.strip_suffix(".weight") {
            Some(base) if name.contains("proj") => pack(base, shape[0], shape[1], &mut entries),
            _ => drop(entries.insert(name.clone(), (Dtype::F32, shape.clone(), data.clone()))),
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let config = Value::Object(checkpoint.with("quantization_config", quantization).config).to_string();
    std::fs::write(directory.path().join("config.json"), config).unwrap();
    let views = entries
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
    let source = Source::open(directory.path()).unwrap();
    (directory, source)
}

#[test]
fn whole_models_are_converted() {
    assert!(HIDDEN.is_multiple_of(16) && INTERMEDIATE.is_multiple_of(16));
    for (group, scattered, format) in [(16, false, "U4z8/16"), (16, true, "U8b8"), (8, false, "U8b8")] {
        let (_directory, source) = model("llama", gptq(4, group), |base, rows, columns, entries| {
            let groups = columns / group as usize;
            let order: Vec<u32> =
                (0..columns).map(|k| if scattered { k % groups } else { k / group as usize } as u32).collect();
            entries.extend([
                (
                    format!("{base}.qweight"),
                    (Dtype::I32, vec![columns / 8, rows], words(&numbers(5, columns / 8 * rows, 24))),
                ),
                (
                    format!("{base}.qzeros"),
                    (Dtype::I32, vec![groups, rows / 8], words(&vec![0x6767_7676; groups * rows / 8])),
                ),
                (format!("{base}.scales"), (Dtype::F32, vec![groups, rows], singles(&scales(6, groups * rows)))),
                (format!("{base}.g_idx"), (Dtype::I32, vec![columns], words(&order))),
            ]);
        });
        let converted = convert(&source, &Options::default(), &mut |_, _, _| true).unwrap();
        for matrix in &converted.model.matrices {
            let expected = if matrix.name.contains("proj") { format } else { "U8b8" };
            assert_eq!(matrix.format.to_string(), expected, "{}", matrix.name);
            let anew = expected == "U8b8" && matrix.name.contains("proj");
            assert_eq!(converted.requantized.contains(&matrix.name), anew, "{}", matrix.name);
        }
        certify(converted.model, &Pool::new(1)).unwrap();
    }
}

#[test]
fn a_bitnet_is_ternary_and_has_its_norms() {
    let quantization = json!({"quant_method": "bitnet", "linear_class": "autobitlinear"});
    let (_directory, packed) = model("bitnet", quantization, |base, rows, columns, entries| {
        let digits = numbers(7, rows / 4 * columns, 16);
        let byte = |&digits: &u32| (0..4).fold(0, |byte, i| byte | ((digits >> (4 * i)) % 3) << (2 * i)) as u8;
        entries.extend([
            (format!("{base}.weight"), (Dtype::U8, vec![rows / 4, columns], digits.iter().map(byte).collect())),
            (format!("{base}.weight_scale"), (Dtype::F32, vec![1], singles(&[0.125]))),
        ]);
    });
    let online = json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"});
    let masters = Checkpoint::of("bitnet").with("quantization_config", online);
    for source in [packed, masters.open().1] {
        let converted = convert(&source, &Options::default(), &mut |_, _, _| true).unwrap();
        for matrix in &converted.model.matrices {
            let expected = if matrix.name.contains("proj") { "T20r" } else { "U8b8" };
            assert_eq!(matrix.format.to_string(), expected, "{}", matrix.name);
        }
        let model = converted.model;
        let ops: Vec<_> = model.body.iter().map(|op| op.name()).collect();
        let layer = &ops[1..1 + (ops.len() - 1) / 2];
        assert_eq!(layer.iter().filter(|&&name| name == "rms_norm").count(), 4);
        for (i, name) in ["attention", "gated_activation"].into_iter().enumerate() {
            let at = layer.iter().position(|&op| op == name).unwrap();
            assert_eq!(layer[at + 1..at + 3], ["rms_norm", "linear"], "{i}");
        }
        certify(model, &Pool::new(1)).unwrap();
    }
}
