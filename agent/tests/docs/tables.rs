//! The tables of the documents that are made from the code.

use std::{fmt::Write as _, fs, path::Path};

use clap::{Arg, ArgAction, CommandFactory as _, builder::PossibleValue};
use holdfast::{
    cli::Cli,
    core::{Defaults, Key},
};

use crate::{files, metrics};

/// Set, the document is written instead of compared.
const WRITE: &str = "HOLDFAST_WRITE_DOCS";

/// Fails if one of the tables is not what the code says.
pub(crate) fn check() {
    let configuration = [
        ("settings", settings()),
        ("run", options("run")),
        ("sentry", options("sentry")),
        ("cleanup", options("cleanup")),
        ("profiles", options("profiles")),
    ];
    check_document("docs/configuration.md", &configuration);
    check_document("docs/metrics.md", &[("metrics", metrics::table())]);
    let commands =
        ["check", "events", "gate", "log-level", "dump"].map(|name| (name, options(name)));
    check_document("docs/commands.md", &commands);
}

fn check_document(document: &str, tables: &[(&str, String)]) {
    let found = files::read(Path::new(document));
    let replaced = |text: String, (name, table): &(&str, String)| replace(&text, name, table);
    let expected = tables.iter().fold(found.clone(), replaced);
    if std::env::var_os(WRITE).is_some() {
        fs::write(files::root().join(document), expected).unwrap();
        return;
    }
    assert!(
        found == expected,
        "{document} is not what the code says; {WRITE}=1 cargo test -p holdfast --test docs writes it"
    );
}

/// Puts a table between the marks with its name.
fn replace(text: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- made from the code: {name} -->\n"), "<!-- end -->\n");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no mark of {name}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("no end of {name}"));
    format!("{before}{begin}{table}{end}{after}")
}

fn settings() -> String {
    let mut table = "| Key | Form | Values | Default |\n|---|---|---|---|\n".to_owned();
    for key in Key::ALL {
        let form = if key.is_label() { "label" } else { "annotation" };
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{key}` | {form} | {} | {} |", key.about(), default_of(key));
    }
    table
}

fn default_of(key: Key) -> String {
    let Defaults { hold, mode, errno, timeout, on_timeout, guard, mesh_wishes: _, observe: _ } =
        Defaults::default();
    let switch = |on: bool| if on { "enabled" } else { "disabled" }.to_owned();
    let value = match key {
        Key::Hold => switch(hold.value),
        Key::Mode => mode.value.as_str().to_owned(),
        Key::Errno => errno.value.as_str().to_owned(),
        Key::Timeout => format!("{}s", timeout.value.as_secs()),
        Key::OnTimeout => on_timeout.value.as_str().to_owned(),
        Key::Guard => switch(guard.value),
        Key::Proxy => return "found by its marks".to_owned(),
        Key::Ready | Key::Ports => return "the profile's".to_owned(),
    };
    format!("`{value}`")
}

fn options(command: &str) -> String {
    let mut cli = Cli::command();
    // Gives each command its own options as they are parsed.
    cli.build();
    let command = cli.find_subcommand(command).unwrap();
    let mut table =
        "| Option | Variable | Default | What it does |\n|---|---|---|---|\n".to_owned();
    for option in command
        .get_arguments()
        .filter(|option| option.get_long().is_some_and(|name| name != "help"))
    {
        let _ = writeln!(table, "{}", row(option));
    }
    table
}

fn row(option: &Arg) -> String {
    let name = option.get_long().unwrap();
    let value = match option.get_action() {
        ArgAction::SetTrue => String::new(),
        _ => format!(" {}", option.get_value_names().unwrap()[0]),
    };
    let variable = option.get_env().map(|name| format!("`{}`", name.display())).unwrap_or_default();
    let help = option.get_long_help().or(option.get_help()).unwrap().to_string();
    // The rustdoc breaks its lines.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (help, default) = without_default(&help);
    let default = match option.get_default_values() {
        _ if option.is_required_set() => "required".to_owned(),
        _ if matches!(option.get_action(), ArgAction::SetTrue) => "off".to_owned(),
        [] => default.unwrap_or_else(|| "none".to_owned()),
        values => {
            let values = values.iter().map(|value| value.to_str().unwrap());
            format!("`{}`", values.collect::<Vec<_>>().join(","))
        }
    };
    let mut does = sentence(&help);
    if !matches!(option.get_action(), ArgAction::SetTrue) {
        does += &choices(&option.get_possible_values());
    }
    let text = format!("| `--{name}{value}` | {variable} | {default} | {does} |");
    assert!(text.matches('|').count() == 5, "a bar would end a cell: {text}");
    text
}

/// Each with what it does; those whose names say it are listed.
fn choices(choices: &[PossibleValue]) -> String {
    let mut text = String::new();
    let mut named = Vec::new();
    for choice in choices {
        match choice.get_help() {
            Some(about) => {
                let _ = write!(text, " `{}`: {}", choice.get_name(), sentence(&about.to_string()));
            }
            None => named.push(format!("`{}`", choice.get_name())),
        }
    }
    if !named.is_empty() {
        let _ = write!(text, " {}.", named.join(", "));
    }
    text
}

/// The text, and the default at its end, which is there where clap does not know it.
fn without_default(help: &str) -> (String, Option<String>) {
    let help = help.trim_end_matches('.');
    match help.strip_suffix(']').and_then(|help| help.rsplit_once(" [default: ")) {
        Some((help, default)) if !default.contains(' ') => {
            (help.to_owned(), Some(format!("`{default}`")))
        }
        Some((help, default)) => (help.to_owned(), Some(default.to_owned())),
        None => (help.to_owned(), None),
    }
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

#[test]
fn values_that_explain_themselves_are_listed() {
    let explained = PossibleValue::new("json").help("For programs");
    let [held, released] = ["held", "released"].map(PossibleValue::new);
    assert_eq!(choices(&[held.clone(), released.clone()]), " `held`, `released`.");
    assert_eq!(choices(&[explained, held, released]), " `json`: For programs. `held`, `released`.");
    assert_eq!(choices(&[]), "");
}

#[test]
fn a_table_stands_between_its_marks() {
    let text = "a\n<!-- made from the code: x -->\nold\n<!-- end -->\nb\n";
    let expected = "a\n<!-- made from the code: x -->\nnew\n<!-- end -->\nb\n";
    assert_eq!(replace(text, "x", "new\n"), expected);
}
