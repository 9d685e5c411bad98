//! What holdfast does in which case, and why: one table, played against the pure core with pods as
//! the API delivers them, and written to docs/behaviour.md.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cases;
mod document;
mod explain;
mod kernel;
mod printed;
mod scene;

use cases::Case;

#[test]
fn every_case_ends_as_the_table_says() {
    let mut wrong = Vec::new();
    for Case { name, given, steps, whose, answer, why: _ } in cases::all() {
        let seen = scene::play(&given, &steps, whose);
        if seen != answer {
            wrong.push(format!("{name}: {seen:?} instead of {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_cases_are_many_and_each_has_a_name_of_its_own() {
    let mut names: Vec<_> = cases::all().into_iter().map(|case| case.name).collect();
    assert!(names.len() >= 60, "{} cases", names.len());
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "two cases with one name");
}

#[test]
fn the_document_is_the_table() {
    document::check();
}

#[test]
fn the_commands_print_what_their_document_shows() {
    printed::check();
}
