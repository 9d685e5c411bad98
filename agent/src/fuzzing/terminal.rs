//! What a pod's owner has written, on its way to an operator's terminal.

use serde_json::Value;

use crate::command::terminal::{safe, safe_json};

pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = safe(&text);
    super::assert_one_line(&shown);
    assert_eq!(safe(&shown), shown, "it takes a second time to be harmless");
    // Each character is one of its own or an escape of ten at most: `\u{10ffff}`.
    assert!(shown.len() <= 10 * text.len());

    let value = Value::from(text);
    let json = serde_json::to_string_pretty(&value).expect("a string is JSON");
    let harmless = safe_json(&json);
    assert_eq!(safe(&harmless), harmless);
    let read: Value = serde_json::from_str(&harmless).expect("it is JSON still");
    assert_eq!(read, value, "it says something else");
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    ["cart", "a\u{1b}[2Jb\r\n", "\u{202e}txt.exe", "\u{e0001}\u{feff}\u{9b}31m", "\"\\u0000\""]
        .map(|text| text.as_bytes().to_vec())
        .into()
}
