//! Every case of the table explains itself.

use holdfast::command::{explain, terminal::Style};

use crate::{cases, scene};

#[test]
fn look() {
    for case in cases::all() {
        let Some((report, now)) = scene::known(&case.given, &case.steps) else {
            println!("##### {}: gone", case.name);
            continue;
        };
        println!(
            "##### {} ({:?})\n[{}]\n{}",
            case.name,
            case.answer,
            report.why,
            explain::text(&report, &[], now, Style::PLAIN)
        );
    }
}
