//! The config file: what an operator chooses for all pods of the node, and profiles of their own.
//!
//! It is the agent's own, not a tenant's, so nothing in it is passed over: whatever is not
//! understood keeps the agent from starting.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::core::{
    Choices, Mode, OnTimeout, Profile, Profiles, ProfilesError, RefuseErrno, ValueError,
    hold_timeout, switch,
};

/// What the config file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The settings that it chooses.
    pub choices: Choices,
    /// The profiles, its own included.
    pub profiles: Profiles,
}

/// Why the config file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("failed to read the config file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says something that is not understood.
    #[error("config file {path}: {fault}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What.
        #[source]
        fault: Fault,
    },
}

/// What is wrong in a config file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A value, or the file itself.
    #[error("{key}{separator}{reason}", separator = if key.is_empty() { "" } else { ": " })]
    Value {
        /// The path to the value; empty if it is the whole file.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A profile that can never work.
    #[error(transparent)]
    Profile(#[from] ProfilesError),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "enabled")]
    hold: Option<bool>,
    #[serde(deserialize_with = "parsed")]
    mode: Option<Mode>,
    #[serde(deserialize_with = "parsed")]
    errno: Option<RefuseErrno>,
    #[serde(deserialize_with = "timeout")]
    timeout: Option<Duration>,
    #[serde(deserialize_with = "parsed")]
    on_timeout: Option<OnTimeout>,
    #[serde(deserialize_with = "enabled")]
    guard: Option<bool>,
    #[serde(deserialize_with = "enabled")]
    mesh_wishes: Option<bool>,
    #[serde(deserialize_with = "enabled")]
    observe: Option<bool>,
    profiles: Vec<Profile>,
}

/// Reads the config file; without one, what holds without one.
///
/// # Errors
///
/// If it cannot be read, or if anything in it is not understood.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    let Some(path) = path else {
        return Ok(Config::default());
    };
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|fault| ConfigError::Invalid { path: path.to_owned(), fault })
}

/// Reads the text of a config file.
///
/// # Errors
///
/// If anything in it is not understood.
pub fn parse(text: &str) -> Result<Config, Fault> {
    let options = serde_saphyr::options! { with_snippet: false };
    let mut key = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            // A key of the file's own may stand in it.
            key = Some(error.path().to_string().escape_debug().to_string());
            error.into_inner()
        })
    });
    let file: Option<File> = read.map_err(|error: serde_saphyr::Error| Fault::Value {
        // A dot stands for the whole file, a question mark for a key that was not read.
        key: key.filter(|path| path != "." && path != "?").unwrap_or_default(),
        reason: reason(&error),
    })?;
    // A file of comments alone is one that chooses nothing.
    let File { hold, mode, errno, timeout, on_timeout, guard, mesh_wishes, observe, profiles } =
        file.unwrap_or_default();
    Ok(Config {
        choices: Choices { hold, mode, errno, timeout, on_timeout, guard, mesh_wishes, observe },
        profiles: Profiles::with(profiles)?,
    })
}

/// What is wrong, for a person, in one line.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn enabled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    read(deserializer, switch)
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    read(deserializer, hold_timeout)
}

fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

fn read<'de, D, T>(
    deserializer: D,
    read: fn(&str) -> Result<T, ValueError>,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    read(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_read() {
        let config = parse(
            "hold: enabled\nmode: retry\nerrno: EAGAIN\ntimeout: 90s\non-timeout: refuse\n\
             guard: enabled\nmesh-wishes: disabled\nobserve: enabled\n",
        );
        let choices = Choices {
            hold: Some(true),
            mode: Some(Mode::Retry),
            errno: Some(RefuseErrno::Again),
            timeout: Some(Duration::from_secs(90)),
            on_timeout: Some(OnTimeout::Refuse),
            guard: Some(true),
            mesh_wishes: Some(false),
            observe: Some(true),
        };
        assert_eq!(config, Ok(Config { choices, profiles: Profiles::builtin() }));
    }

    #[test]
    fn a_file_that_says_nothing_chooses_nothing() {
        for text in ["", "# nothing yet\n", "---\n", "{}", "profiles: []\n"] {
            assert_eq!(parse(text), Ok(Config::default()), "{text:?}");
        }
    }

    #[test]
    fn own_profiles_are_added_or_take_a_builtins_place() {
        let config = parse(
            "profiles:\n\
             - {name: gatekeeper, containers: [gatekeeper], ready: ['tcp://:6000'], ports: [6000]}\n\
             - {name: osm, containers: [envoy], ready: [kube], ports: [15001, {default: 1}]}\n",
        )
        .unwrap();
        let names: Vec<_> = config.profiles.iter().map(|profile| profile.name.as_str()).collect();
        let builtin = Profiles::builtin();
        let builtin: Vec<_> = builtin.iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, [&["gatekeeper"], &*builtin].concat());
        let osm = config.profiles.get("osm").unwrap();
        assert_eq!(osm.default_ports().collect::<Vec<_>>(), [15001, 1]);
        assert!(osm.marks.is_empty());
    }

    #[test]
    fn whatever_is_not_understood_is_refused_in_one_line_that_says_where() {
        for (text, key, reason) in [
            ("holds: enabled", "holds", "unknown field"),
            ("hold: yes", "hold", "it must be enabled or disabled"),
            ("hold: true", "hold", "it must be enabled or disabled"),
            ("observe: true", "observe", "it must be enabled or disabled"),
            ("mode: Hold", "mode", "it must be hold, retry, refuse or observe"),
            ("errno: 111", "errno", "it must be ECONNREFUSED"),
            ("timeout: 60", "timeout", "it must be a duration from 1s to 1h"),
            ("timeout: 2h", "timeout", "it must be a duration from 1s to 1h"),
            ("timeout: [1s]", "timeout", ""),
            ("timeout:", "timeout", ""),
            ("on-timeout: close", "on-timeout", "it must be open or refuse"),
            ("on_timeout: open", "on_timeout", "unknown field"),
            ("hold: enabled\nhold: enabled", "", "duplicate"),
            ("- hold: enabled", "", ""),
            ("hold: enabled\n---\nhold: disabled", "", ""),
            ("profiles: istio", "profiles", ""),
            ("profiles: [{name: a, port: 1}]", "profiles[0].port", "unknown field"),
            (
                "profiles: [{name: a, containers: [b], ready: [kube], ports: ['x']}]",
                "profiles[0].ports[0]",
                "invalid digit",
            ),
            (
                "profiles: [{name: a, containers: [b], ready: ['http://x/'], ports: [1]}]",
                "profiles[0].ready[0]",
                "it must be like http://:15021/healthz/ready",
            ),
            (
                "profiles: [{name: a, containers: [b], ready: [kube], ports: [{from: [{x: y}]}]}]",
                "profiles[0].ports[0].from[0]",
                "unknown variant",
            ),
            ("profiles: [{name: a}]", "profiles[0]", "missing field"),
        ] {
            match parse(text) {
                Err(Fault::Value { key: found, reason: told }) => {
                    assert!(found == key, "{text:?}: {found}: {told}");
                    assert!(told.contains(reason), "{text:?}: {told}");
                    assert!(!told.contains('\n') && !told.is_empty(), "{told}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_profile_that_can_never_work_is_refused() {
        let text = "profiles: [{name: a, containers: [b], ready: [kube], ports: [70000]}]";
        let fault = parse(text).unwrap_err().to_string();
        assert_eq!(fault, "profiles[0] (a): ports: it must be a port from 1 to 65535");
    }

    #[test]
    fn an_error_names_the_file() {
        let missing = load(Some(Path::new("/does/not/exist.yaml"))).unwrap_err();
        let missing = crate::exit::line(&missing.into());
        assert!(
            missing.starts_with("failed to read the config file /does/not/exist.yaml: No such")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hold: on").unwrap();
        let invalid: anyhow::Error = load(Some(file.path())).unwrap_err().into();
        let line = crate::exit::line(&invalid);
        let path = file.path().display();
        assert!(
            line.starts_with(&format!("config file {path}: hold: it must be enabled")),
            "{line}"
        );
        assert_eq!(crate::exit::code(&invalid), std::process::ExitCode::from(crate::exit::USAGE));
    }

    const DOCUMENT: &str = include_str!("../../docs/configuration.md");

    #[test]
    fn every_example_of_a_config_file_in_the_documentation_works() {
        let examples: Vec<_> = DOCUMENT
            .split("```yaml\n# holdfast.yaml\n")
            .skip(1)
            .filter_map(|rest| rest.split_once("```"))
            .collect();
        assert_eq!(examples.len(), 3);
        for (example, _) in examples {
            parse(example).unwrap_or_else(|fault| panic!("{fault}:\n{example}"));
        }
    }

    /// What can stand where `NO_SUCH_KEY` stands in a text, in the parser's own words.
    fn expected_keys(text: &str) -> Vec<String> {
        let Err(Fault::Value { reason, .. }) = parse(text) else { panic!("{text}") };
        let (_, keys) = reason.split_once("expected one of ").unwrap_or_else(|| {
            reason.split_once("expected ").unwrap_or_else(|| panic!("{text}: {reason}"))
        });
        let (keys, _) = keys.split_once(" at line").unwrap();
        let separators = [',', ' ', '`'];
        let keys = keys.split(separators).filter(|key| !key.is_empty() && *key != "or");
        keys.map(str::to_owned).collect()
    }

    #[test]
    fn the_documentation_names_every_key_and_every_profile() {
        let within = |part: &str| {
            format!("profiles: [{{name: a, containers: [b], ready: [kube], ports: [1], {part}}}]")
        };
        let mut keys: Vec<String> = [
            "NO_SUCH_KEY: 1".to_owned(),
            within("NO_SUCH_KEY: 1"),
            within("marks: [{NO_SUCH_KEY: x}]"),
            within("active: {NO_SUCH_KEY: 1}"),
            within("dns: {NO_SUCH_KEY: 1}"),
            within("uid: {NO_SUCH_KEY: 1}"),
            within("uid: {from: [{NO_SUCH_KEY: x}]}"),
            within("hold-wishes: [{NO_SUCH_KEY: 1}]"),
            "profiles: [{name: a, ready: [{NO_SUCH_KEY: 1}]}]".to_owned(),
            "profiles: [{name: a, ports: [{NO_SUCH_KEY: 1}]}]".to_owned(),
        ]
        .iter()
        .flat_map(|text| expected_keys(text))
        .collect();
        assert!(keys.len() > 40, "{keys:?}");
        keys.extend(Profiles::builtin().iter().map(|profile| profile.name.clone()));
        keys.extend(crate::core::Key::ALL.iter().map(ToString::to_string));
        let flags = ["--config", "--default-hold", "--timeout", "--mesh-wishes", "--observe"];
        keys.extend(flags.map(str::to_owned));
        for key in keys {
            let named = ["`", " ", "(", "\n"].iter().any(|before| {
                ["`", " ", ")", ":"]
                    .iter()
                    .any(|after| DOCUMENT.contains(&format!("{before}{key}{after}")))
            });
            assert!(named, "docs/configuration.md does not name {key}");
        }
    }

    #[test]
    fn the_documentation_names_the_meshes_own_keys() {
        for wish in Profiles::builtin().iter().flat_map(|profile| &profile.hold_wishes) {
            let key = &wish.annotation.key;
            assert!(DOCUMENT.contains(&format!("`{key}`")), "{key}");
        }
    }
}
