//! What `holdfast profiles` prints.

use super::{
    Output,
    table::{Cell, Table},
};
use crate::core::{Number, Profile, Profiles};

/// The profiles as text: a table, or a list of objects, which in YAML can stand below `profiles:` in
/// the config file.
///
/// # Errors
///
/// If a serializer refuses them.
pub fn render(profiles: &Profiles, output: Output) -> anyhow::Result<String> {
    let all: Vec<&Profile> = profiles.iter().collect();
    output.render(&all, |style| {
        let mut table = Table::new(["NAME", "CONTAINERS", "READY", "PORTS", "DNS", "UID"]);
        for profile in &all {
            table.row(row(profile));
        }
        table.render(style)
    })
}

fn row(profile: &Profile) -> [Cell; 6] {
    let number = |number: &Number| number.default.map_or(OF_POD.to_owned(), |n| n.to_string());
    let mut ready: Vec<String> = profile.ready.iter().map(|spec| spec.check.to_string()).collect();
    if profile.kube_ready {
        ready.push("kube".to_owned());
    }
    let ports = profile.ports.iter();
    [
        profile.name.as_str().into(),
        Cell::lines(&profile.containers),
        Cell::lines(ready),
        Cell::lines(ports.map(|spec| spec.default.map_or(OF_POD.to_owned(), |n| n.to_string()))),
        profile.dns.as_ref().map_or(NONE.to_owned(), |dns| number(&dns.port)).into(),
        profile.uid.as_ref().map_or(NONE.to_owned(), number).into(),
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
