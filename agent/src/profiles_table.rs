//! What `holdfast profiles` prints.

use std::fmt::Write as _;

use clap::ValueEnum;

use crate::core::{Number, Profile, Profiles};

/// The form of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: columns.
    #[default]
    Table,
    /// A list of objects.
    Json,
    /// A list that can stand below `profiles:` in the config file.
    Yaml,
}

const HEADINGS: [&str; COLUMNS] = ["NAME", "CONTAINERS", "READY", "PORTS", "DNS", "UID"];
const COLUMNS: usize = 6;

/// The profiles as text.
///
/// # Errors
///
/// If a serializer refuses them.
pub fn render(profiles: &Profiles, output: Output) -> anyhow::Result<String> {
    let all: Vec<&Profile> = profiles.iter().collect();
    Ok(match output {
        Output::Table => table(&all),
        Output::Json => serde_json::to_string_pretty(&all)? + "\n",
        Output::Yaml => serde_saphyr::to_string(&all)?,
    })
}

/// One row for each profile; a cell with several values has a line for each.
fn table(profiles: &[&Profile]) -> String {
    let heading = HEADINGS.map(|heading| vec![heading.to_owned()]);
    let rows: Vec<[Vec<String>; COLUMNS]> =
        std::iter::once(heading).chain(profiles.iter().map(|profile| row(profile))).collect();
    let width = |column: usize| {
        let cells = rows.iter().flat_map(|row| &row[column]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let height = row.iter().map(Vec::len).max().unwrap_or_default();
        for line in 0..height {
            let mut columns = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let cell = cell.get(line).map_or("", String::as_str);
                let _: Result<(), _> = write!(columns, "{cell:width$}  ");
            }
            text.push_str(columns.trim_end());
            text.push('\n');
        }
    }
    text
}

fn row(profile: &Profile) -> [Vec<String>; COLUMNS] {
    let number = |number: &Number| number.default.map_or(OF_POD.to_owned(), |n| n.to_string());
    let mut ready: Vec<String> = profile.ready.iter().map(|spec| spec.check.to_string()).collect();
    if profile.kube_ready {
        ready.push("kube".to_owned());
    }
    [
        vec![profile.name.clone()],
        profile.containers.clone(),
        ready,
        profile
            .ports
            .iter()
            .map(|spec| spec.default.map_or(OF_POD.to_owned(), |port| port.to_string()))
            .collect(),
        vec![profile.dns.as_ref().map_or(NONE.to_owned(), |dns| number(&dns.port))],
        vec![profile.uid.as_ref().map_or(NONE.to_owned(), number)],
    ]
}

/// Only the pod's own spec tells.
const OF_POD: &str = "of pod";
const NONE: &str = "-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_a_terminal_and_names_everything() {
        let text = render(&Profiles::builtin(), Output::Table).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for cell in ["istio-proxy", "http://:4191/ready", "kube", "50001", "15053", "5678", OF_POD]
        {
            assert!(text.contains(cell), "{cell}:\n{text}");
        }
        assert!(text.starts_with("NAME"));
    }

    #[test]
    fn json_is_a_list_of_objects_and_yaml_can_be_read_again() {
        let profiles = Profiles::builtin();
        let json = render(&profiles, Output::Json).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let names: Vec<_> =
            json.as_array().unwrap().iter().map(|profile| profile["name"].as_str()).collect();
        assert_eq!(names, profiles.iter().map(|p| Some(p.name.as_str())).collect::<Vec<_>>());

        let yaml = render(&profiles, Output::Yaml).unwrap();
        let again: Vec<Profile> = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(again.iter().collect::<Vec<_>>(), profiles.iter().collect::<Vec<_>>());
        assert_eq!(Profiles::with(again), Ok(profiles));
    }
}
