//! Calibration files (docs/CALIBRATION.md): safetensors with one F64 tensor for each set.
use super::{Calibration, Error, LONGEST_WINDOW, Set, Settings, Weighting, moments};
use crate::error::{Error as FileError, tensor_field};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const FORMAT: &str = "intact-calibration";
const VERSION: &str = "1";
/// Longest header that is read.
const LONGEST_HEADER: u64 = 8 << 20;

/// Removes a file unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Calibration {
    /// Writes the file; it is there completely, or as it was before. The same calibration gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |cause| Error::Write { path: path.to_owned(), cause };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = Partial(path.with_file_name(format!(".{name}.partial-{}", std::process::id())));
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&partial.0).map_err(failed)?);
        let header = self.header();
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(&header).map_err(failed)?;
        for set in &self.sets {
            for sum in &set.sums {
                file.write_all(&sum.to_le_bytes()).map_err(failed)?;
            }
        }
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        fs::rename(&partial.0, path).map_err(failed)
    }

    /// Metadata with sorted keys, then the tensors in the program's order, padded with spaces to 64 bytes.
    fn header(&self) -> Vec<u8> {
        let shared: BTreeMap<&str, &str> = self
            .sets
            .iter()
            .flat_map(|set| set.matrices[1..].iter().map(|name| (name.as_str(), set.matrices[0].as_str())))
            .collect();
        let mut metadata: BTreeMap<&str, String> = BTreeMap::from([
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("model", self.settings.model.clone()),
            ("text", self.settings.text.clone()),
            ("window", self.settings.window.to_string()),
            ("windows", self.windows.to_string()),
            ("weighting", self.settings.weighting.name().to_owned()),
            ("moments", if self.settings.full { "full" } else { "diagonal" }.to_owned()),
            ("shared", json!(shared).to_string()),
        ]);
        if !self.sensitivities.is_empty() {
            metadata.insert("sensitivities", json!(self.sensitivities).to_string());
        }
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), json!(metadata));
        let mut end = 0;
        for set in &self.sets {
            let start = end;
            end += set.sums.len() * 8;
            let entry = json!({"dtype": "F64", "shape": [set.sums.len()], "data_offsets": [start, end]});
            entries.insert(set.matrices[0].clone(), entry);
        }
        let mut header = Value::Object(entries).to_string().into_bytes();
        header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');
        header
    }

    /// Reads a file; nothing in it is trusted.
    ///
    /// # Errors
    /// [`FileError::Io`]; [`FileError::Malformed`] for whatever contradicts the format; [`FileError::Unsupported`] for
    /// another version.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = fs::read(path).map_err(|cause| FileError::Io { path: path.to_owned(), cause })?;
        Self::parse(path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FileError> {
        let malformed = |field: &str, problem: String| FileError::Malformed {
            path: path.to_owned(),
            field: field.to_owned(),
            problem,
        };
        let announced = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        if announced > LONGEST_HEADER {
            return Err(malformed("header", format!("{announced} bytes are more than {LONGEST_HEADER}")));
        }
        let (header, tensors) =
            SafeTensors::read_metadata(bytes).map_err(|error| malformed("header", error.to_string()))?;
        let metadata = tensors.metadata().as_ref();
        let text = |field: &str| {
            metadata
                .and_then(|metadata| metadata.get(field))
                .ok_or_else(|| malformed(field, "the metadata lack it; is it a calibration?".to_owned()))
        };
        if text("format")? != FORMAT {
            return Err(malformed("format", format!("it is not {FORMAT}")));
        }
        if text("version")? != VERSION {
            let found = text("version")?.clone();
            let remedy = "calibrate again with this release";
            return Err(FileError::Unsupported { path: path.to_owned(), field: "version".to_owned(), found, remedy });
        }
        let digest = |field: &str| match text(field)? {
            digits if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(digits.clone()),
            _ => Err(malformed(field, "it is no SHA-256".to_owned())),
        };
        let number =
            |field: &str| text(field)?.parse::<u64>().map_err(|_| malformed(field, "it is no whole number".to_owned()));
        let window = usize::try_from(number("window")?).unwrap_or(usize::MAX);
        if !(1..=LONGEST_WINDOW).contains(&window) {
            return Err(malformed("window", format!("it is not within 1…{LONGEST_WINDOW}")));
        }
        let weighting = Weighting::parse(text("weighting")?)
            .ok_or_else(|| malformed("weighting", "it is none of none, auto and gradient".to_owned()))?;
        let full = match text("moments")?.as_str() {
            "full" => true,
            "diagonal" => false,
            _ => return Err(malformed("moments", "they are neither full nor diagonal".to_owned())),
        };
        let shared: BTreeMap<String, String> =
            serde_json::from_str(text("shared")?).map_err(|error| malformed("shared", error.to_string()))?;
        let sensitivities: BTreeMap<String, f64> = match metadata.and_then(|all| all.get("sensitivities")) {
            Some(text) => serde_json::from_str(text).map_err(|error| malformed("sensitivities", error.to_string()))?,
            None => BTreeMap::new(),
        };
        if sensitivities.values().any(|&value| value < 0.0) {
            return Err(malformed("sensitivities", "one is negative".to_owned()));
        }
        let settings = Settings { model: digest("model")?, text: digest("text")?, window, weighting, full };

        let data = &bytes[8 + header..];
        let mut sets = Vec::new();
        for name in tensors.offset_keys() {
            let Some(info) = tensors.info(&name) else { continue };
            let (start, end) = info.data_offsets;
            let set = (info.dtype == Dtype::F64 && info.shape.len() == 1)
                .then(|| parse_set(&name, &data[start..end], full))
                .flatten();
            sets.push(set.ok_or_else(|| malformed(&tensor_field(&name), "its sums are no moments".to_owned()))?);
        }
        for (name, first) in shared {
            if sets.iter().any(|set| set.matrices.contains(&name)) {
                return Err(malformed("shared", format!("{} occurs twice", tensor_field(&name))));
            }
            match sets.iter_mut().find(|set| set.matrices[0] == first) {
                Some(set) => set.matrices.push(name),
                None => return Err(malformed("shared", format!("there is no {}", tensor_field(&first)))),
            }
        }
        Ok(Self { settings, windows: number("windows")?, sets, sensitivities })
    }
}

/// The moments in `bytes`; none for a number of them that no matrix has, or values that no moments are.
fn parse_set(name: &str, bytes: &[u8], full: bool) -> Option<Set> {
    let length = bytes.len() / 8;
    let columns = if full { ((8 * length + 1).isqrt() - 1) / 2 } else { length };
    if length == 0 || (full && moments::packed(columns) != length) {
        return None;
    }
    let (words, _) = bytes.as_chunks();
    let sums: Vec<f64> = words.iter().map(|&word| f64::from_le_bytes(word)).collect();
    let set = Set { matrices: vec![name.to_owned()], columns, full, sums };
    let sound = set.sums.iter().all(|sum| sum.is_finite()) && set.importance().iter().all(|&sum| sum >= 0.0);
    sound.then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(full: bool) -> Calibration {
        let set = |names: &[&str], sums: &[f64]| Set {
            matrices: names.iter().map(|&name| name.to_owned()).collect(),
            columns: if full { 2 } else { 3 },
            full,
            sums: sums.to_vec(),
        };
        let (model, text) = ("a".repeat(64), "b".repeat(64));
        let settings = Settings { model, text, window: 512, weighting: Weighting::Auto, full };
        let sets = vec![
            set(&["q"], &[1.0, -2.0, 5.0].map(|x: f64| if full { x } else { x.abs() })),
            set(&["g", "u"], &[4.0, 0.5, 9.0]),
        ];
        let sensitivities = BTreeMap::from([("g".to_owned(), 0.1), ("q".to_owned(), 1.0 / 3.0)]);
        Calibration { settings, windows: 7, sets, sensitivities }
    }

    #[test]
    fn files_are_read_as_written() {
        let directory = tempfile::tempdir().unwrap();
        for full in [false, true] {
            let path = directory.path().join("c.safetensors");
            sample(full).write(&path).unwrap();
            assert_eq!(Calibration::read(&path).unwrap(), sample(full));
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
        assert_eq!(sample(true).sets[0].importance(), [1.0, 5.0]);
        assert_eq!(sample(true).find("u"), Some(&sample(true).sets[1]));
    }

    #[test]
    fn damaged_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.safetensors");
        sample(true).write(&path).unwrap();
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() {
            assert!(Calibration::parse(&path, &good[..cut]).is_err(), "{cut}");
        }
        let changed = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let at = good.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
            let mut bad = good.clone();
            bad[at..at + to.len()].copy_from_slice(to.as_bytes());
            Calibration::parse(&path, &bad).unwrap_err().to_string()
        };
        assert!(changed("intact-cal", "intact-cab").contains("format"));
        assert!(changed("\"version\":\"1\"", "\"version\":\"9\"").contains("version"));
        assert!(changed("\"512\"", "\"000\"").contains("window"));
        assert!(changed("aaaa", "zzzz").contains("model"));
        assert!(changed("\"auto\"", "\"sort\"").contains("weighting"));
        let mut bad = good.clone();
        let end = bad.len();
        bad[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
        assert!(Calibration::parse(&path, &bad).unwrap_err().to_string().contains('g'));
    }
}
