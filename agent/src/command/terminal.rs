//! What may reach a terminal, and in which colours.

use std::{
    borrow::Cow,
    env,
    ffi::OsStr,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
};

use clap::builder::styling::{self, AnsiColor};

/// A text in which nothing acts on a terminal or hides from its reader: what does is written as its
/// escape, such as `\u{1b}`. Text of one line stays one line.
#[must_use]
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// JSON of the same value in which nothing acts on a terminal: what does stands within strings only, but for
/// the lines' ends, and is written as JSON's own escape.
#[must_use]
pub fn safe_json(json: &str) -> Cow<'_, str> {
    let is_to_escape = |c: char| c != '\n' && acts(c);
    if !json.chars().any(is_to_escape) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_to_escape(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _: fmt::Result = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Whether a text could do anything to a terminal but fill it with lines.
pub(super) fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| c != '\n' && acts(c))
}

/// Whether a character is not one to look at: a control (C0 with ESC and line ends, DEL, C1), or one
/// of those that have no width or change the order of what stands around them (the general
/// categories Cf, Zl and Zp of Unicode 16, and the fillers that look like nothing).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// What a colour says. The words say it as well: a table is complete without colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
    /// A heading.
    Heading,
    /// Of less weight.
    Faint,
}

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colours: bool,
}

// === impl Style ===

impl Style {
    /// No colours.
    pub const PLAIN: Self = Self { colours: false };
    /// Colours.
    pub const COLOURED: Self = Self { colours: true };

    /// Colours if standard output is a terminal, and nobody is against them
    /// (<https://no-color.org>).
    #[must_use]
    pub fn of_stdout() -> Self {
        let (no_color, term) = (env::var_os("NO_COLOR"), env::var_os("TERM"));
        Self::of(io::stdout().is_terminal(), no_color.as_deref(), term.as_deref())
    }

    fn of(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> Self {
        let unwanted = no_color.is_some_and(|value| !value.is_empty());
        let capable = term.is_some_and(|term| !term.is_empty() && term != "dumb");
        Self { colours: is_terminal && capable && !unwanted }
    }

    /// The text in this colour. It must be safe already.
    #[must_use]
    pub fn paint(self, paint: Paint, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let style = match paint {
            Paint::Good => AnsiColor::Green.on_default(),
            Paint::Warning => AnsiColor::Yellow.on_default(),
            Paint::Bad => AnsiColor::Red.on_default().bold(),
            Paint::Heading => styling::Style::new().bold(),
            Paint::Faint => styling::Style::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_have_the_same_value_and_nothing_that_acts_on_a_terminal() {
        let hostile = "a\u{9b}31m\u{202e}b\u{7f}\u{2028}\u{1b}]0;x\u{7}\nc\u{e0041}";
        let value = serde_json::json!({ hostile: [hostile, "plain", 7] });
        for output in [crate::command::Output::Json, crate::command::Output::Yaml] {
            let text = output.render(&value, |_| unreachable!()).unwrap();
            assert!(is_harmless(&text), "{text:?}");
            let again: serde_json::Value = match output {
                crate::command::Output::Json => serde_json::from_str(&text).unwrap(),
                _ => serde_saphyr::from_str(&text).unwrap(),
            };
            assert_eq!(again, value, "{text}");
        }
        assert!(matches!(safe_json("{\n  \"a\": \"b\"\n}"), Cow::Borrowed(_)));
    }

    #[test]
    fn nothing_that_acts_on_a_terminal_is_left() {
        for (text, expected) in [
            ("istio-proxy", "istio-proxy"),
            ("Žluťoučký kůň 日本 🦀", "Žluťoučký kůň 日本 🦀"),
            ("a\x1b[31mb", "a\\u{1b}[31mb"),
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("one\r\ntwo\tthree", "one\\r\\ntwo\\tthree"),
            ("del\x7f", "del\\u{7f}"),
            ("c1 \u{9b}31m", "c1 \\u{9b}31m"),
            ("\u{202e}drawkcab\u{2066}", "\\u{202e}drawkcab\\u{2066}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("line\u{2028}end", "line\\u{2028}end"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
            ("", ""),
        ] {
            assert_eq!(safe(text), expected);
        }
        assert!(matches!(safe("plain"), Cow::Borrowed(_)));
        // Whatever acts, its escape does not.
        let all: String = ('\0'..=char::MAX).collect();
        assert!(!safe(&all).chars().any(acts));
    }

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        let of = |is_terminal, no_color: Option<&str>, term: Option<&str>| {
            Style::of(is_terminal, no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert_eq!(of(true, None, Some("xterm")), Style::COLOURED);
        assert_eq!(of(true, Some(""), Some("xterm")), Style::COLOURED);
        for plain in [
            of(false, None, Some("xterm")),
            of(true, Some("1"), Some("xterm")),
            of(true, None, Some("dumb")),
            of(true, None, None),
        ] {
            assert_eq!(plain, Style::PLAIN);
        }
        assert_eq!(Style::COLOURED.paint(Paint::Good, "ok"), "\x1b[32mok\x1b[0m");
        assert_eq!(Style::COLOURED.paint(Paint::Good, ""), "");
        assert_eq!(Style::PLAIN.paint(Paint::Bad, "failed"), "failed");
    }
}
