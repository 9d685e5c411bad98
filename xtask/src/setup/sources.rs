//! Reads apt's configured sources, to use the same mirror for other Debian releases.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

/// One stanza (or line) of apt's sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) uris: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) components: Vec<String>,
    /// Key file or, over several lines, the key itself; as written.
    pub(crate) signed_by: Option<String>,
}

/// All sources below `/etc/apt` (or what stands for it).
pub(crate) fn read(etc_apt: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = etc_apt.join("sources.list.d").read_dir() {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(parse_deb822(&text)),
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            // apt ignores other names as well.
            _ => {}
        }
    }
    Ok(sources)
}

/// The machine's sources of Debian itself, with `host`'s suites exchanged for `wanted`'s.
///
/// Third parties often name a suite after the release too; the ones that have no such suite fail
/// later, harmlessly, as does a mirror from which an old release has been taken away.
pub(crate) fn for_release(sources: &[Source], host: &str, wanted: &str) -> Vec<Source> {
    sources
        .iter()
        .filter(|source| source.components.iter().any(|component| component == "main"))
        .filter_map(|source| {
            let suites: Vec<String> = source
                .suites
                .iter()
                .filter_map(|suite| match suite.strip_prefix(host)? {
                    "" => Some(wanted.to_owned()),
                    "-security" => Some(format!("{wanted}-security")),
                    // Updates and backports carry no kernel that the other two lack.
                    _ => None,
                })
                .collect();
            let uris: Vec<String> =
                source.uris.iter().filter(|uri| !uri.starts_with("cdrom:")).cloned().collect();
            let components = vec!["main".to_owned()];
            let signed_by = source.signed_by.clone();
            (!suites.is_empty() && !uris.is_empty()).then_some(Source {
                uris,
                suites,
                components,
                signed_by,
            })
        })
        .collect()
}

/// The same sources on the archive of releases that the mirrors have dropped.
///
/// Debian keeps it beside the mirrors, under the same paths, as host `archive` of the same domain.
pub(crate) fn archived(sources: &[Source]) -> Vec<Source> {
    let archived = |uri: &String| {
        let (scheme, rest) = uri.split_once("://")?;
        let (host, path) = rest.split_once('/')?;
        let (_, domain) = host.split_once('.')?;
        Some(format!("{scheme}://archive.{domain}/{path}"))
    };
    sources
        .iter()
        .map(|source| Source {
            uris: source.uris.iter().filter_map(archived).collect(),
            ..source.clone()
        })
        .filter(|source| !source.uris.is_empty())
        .collect()
}

/// Writes sources in the deb822 form.
pub(crate) fn render(sources: &[Source]) -> String {
    let mut text = String::new();
    for Source { uris, suites, components, signed_by } in sources {
        // Writing to a String cannot fail.
        let _: std::fmt::Result = writeln!(
            text,
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}",
            uris.join(" "),
            suites.join(" "),
            components.join(" ")
        );
        if let Some(signed_by) = signed_by {
            let _: std::fmt::Result = writeln!(text, "Signed-By:{signed_by}");
        }
        text.push('\n');
    }
    text
}

/// deb822(5): stanzas of `Key: value`, continued by lines that begin with a blank.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(source_of(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            stanza.push((key.trim().to_ascii_lowercase(), value.to_owned()));
        }
    }
    sources
}

fn source_of(stanza: &[(String, String)]) -> Option<Source> {
    let field =
        |name: &str| stanza.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name: &str| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let disabled = field("enabled").is_some_and(|value| value.trim() == "no");
    if disabled || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    Some(Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
    })
}

/// sources.list(5): `deb [option=value ...] uri suite component ...`.
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="))
        // As a field's value it follows the colon and a blank; commas separate several.
        .map(|value| format!(" {}", value.replace(',', " ")));
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "\
Types: deb
# a comment in a stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
";

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn deb822_stanzas_are_read_and_disabled_ones_are_not() {
        let sources = parse_deb822(BOOKWORM);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, strings(&["bookworm", "bookworm-updates"]));
        assert_eq!(
            sources[0].signed_by.as_deref(),
            Some(" /usr/share/keyrings/debian-archive-keyring.gpg")
        );
        assert_eq!(sources[1].uris, strings(&["http://mirror.example/debian-security"]));
        assert_eq!(sources[1].signed_by, None);
    }

    #[test]
    fn an_embedded_key_survives_reading_and_writing() {
        let text = "Types: deb\nURIs: http://m.example/d\nSuites: trixie\nComponents: main\n\
                    Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n\n";
        let sources = parse_deb822(text);
        assert_eq!(parse_deb822(&render(&sources)), sources);
        assert!(render(&sources).contains("Signed-By:\n -----BEGIN"), "{}", render(&sources));
    }

    #[test]
    fn one_line_sources_are_read_with_their_options() {
        let source = parse_line(
            "deb [arch=amd64 signed-by=/a.gpg,/b.gpg] http://m.example/debian bookworm main # it",
        );
        assert_eq!(
            source,
            Some(Source {
                uris: strings(&["http://m.example/debian"]),
                suites: strings(&["bookworm"]),
                components: strings(&["main"]),
                signed_by: Some(" /a.gpg /b.gpg".into()),
            })
        );
        for other in ["", "# deb http://m.example/debian bookworm main", "deb-src http://m x main"]
        {
            assert_eq!(parse_line(other), None, "{other}");
        }
    }

    #[test]
    fn other_releases_come_from_the_same_mirrors() {
        let mut sources = parse_deb822(BOOKWORM);
        sources.extend(parse_line("deb http://third.example/sdk sdk-bookworm main"));
        let bullseye = for_release(&sources, "bookworm", "bullseye");
        assert_eq!(bullseye.len(), 2);
        assert_eq!(bullseye[0].suites, strings(&["bullseye"]));
        assert_eq!(bullseye[0].components, strings(&["main"]));
        assert_eq!(bullseye[1].suites, strings(&["bullseye-security"]));
    }

    #[test]
    fn a_dropped_release_is_looked_for_in_the_archive_of_the_same_domain() {
        let sources = for_release(&parse_deb822(BOOKWORM), "bookworm", "buster");
        let archived = archived(&sources);
        assert_eq!(archived[0].uris, strings(&["http://archive.example/debian"]));
        assert_eq!(archived[1].uris, strings(&["http://archive.example/debian-security"]));
        assert_eq!(archived[1].suites, strings(&["buster-security"]));
    }
}
