//! Plots: what a part wants drawn, and the SVG of it.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::table::number;

/// Width and height in pixels: the text column of a rendered document, and half as high.
const SIZE: (u32, u32) = (860, 440);
/// Height of a line of text in pixels; its letters are drawn at four fifths of it. No font is asked
/// for its measures: the reader's own sans-serif is used, and the places are those of a usual one.
const TEXT: u32 = 16;
/// A usual letter's width, as a share of the line's height.
const LETTER: f64 = 0.45;
/// A line with no more points than this has them marked: each is a measurement of its own.
const MARKED_POINTS: usize = 24;
/// Okabe and Ito's colours, which colour-blind readers tell apart as well, without yellow, which a
/// white ground swallows; then some more.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(130, 130, 130),
    RGBColor(130, 80, 50),
    RGBColor(90, 40, 140),
];
/// A line's sample in the legend, and the room beside it.
const SAMPLE: i32 = 22;
const GAP: i32 = 8;

/// One drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// The file's name, without `.svg`; no two plots of all parts have the same.
    pub name: String,
    /// Above the drawing.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
}

/// One axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// How numbers become places.
    pub scale: Scale,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// In equal steps, from 0.
    Linear,
    /// In powers of ten; what is not above 0 has no place on it.
    Log,
}

/// One line, with its name in the legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it shows.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

// === impl Axis ===

impl Axis {
    /// An axis in equal steps.
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Linear }
    }

    /// An axis in powers of ten.
    pub fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Log }
    }

    fn has(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    /// From where to where it goes, so that all of `values` have a place.
    fn range(&self, values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
        /// Free room above the highest point.
        const ABOVE: f64 = 1.05;
        let (low, high) =
            values.filter(|value| self.has(*value)).fold(None, |range, value| match range {
                None => Some((value, value)),
                Some((low, high)) => Some((value.min(low), value.max(high))),
            })?;
        Some(match self.scale {
            Scale::Linear if high <= 0.0 && low >= 0.0 => 0.0..1.0,
            Scale::Linear => low.min(0.0)..high * ABOVE,
            // Whole powers, at least one.
            Scale::Log => {
                let [low, high] = [low.log10().floor(), high.log10().ceil()];
                10f64.powf(low)..10f64.powf(high.max(low + 1.0))
            }
        })
    }
}

// === impl Plot ===

impl Plot {
    /// Its SVG. Points without a place on a logarithmic axis are left out.
    ///
    /// # Errors
    ///
    /// If there is nothing to draw.
    pub fn svg(&self) -> Result<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let nothing = || anyhow!("plot {:?} has no points", self.name);
        let x = self.x.range(points().map(|point| point.0)).ok_or_else(nothing)?;
        let y = self.y.range(points().map(|point| point.1)).ok_or_else(nothing)?;
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            // The reader's page may be dark; the drawing brings its own ground.
            area.fill(&WHITE)?;
            let area = self.draw_legend(&area)?;
            match (self.x.scale, self.y.scale) {
                (Scale::Linear, Scale::Linear) => self.draw(&area, x, y),
                (Scale::Linear, Scale::Log) => self.draw(&area, x, y.log_scale()),
                (Scale::Log, Scale::Linear) => self.draw(&area, x.log_scale(), y),
                (Scale::Log, Scale::Log) => self.draw(&area, x.log_scale(), y.log_scale()),
            }?;
            area.present()?;
        }
        Ok(svg)
    }

    /// On the right; gives what is left.
    fn draw_legend<'a>(&self, area: &Area<'a>) -> Result<Area<'a>> {
        let longest = self.series.iter().map(|series| series.name.chars().count()).max();
        let letters = longest.unwrap_or_default() as f64 * LETTER * f64::from(TEXT);
        let (width, height) = area.dim_in_pixel();
        let legend = letters.ceil() as i32 + SAMPLE + 3 * GAP;
        let (chart, legend) = area.split_horizontally(width.cast_signed() - legend);
        let line_height = TEXT.cast_signed() * 3 / 2;
        let lines = i32::try_from(self.series.len()).unwrap_or(i32::MAX);
        let top = (height.cast_signed() - lines.saturating_mul(line_height)) / 2;
        for ((series, colour), line) in self.series.iter().zip(colours()).zip(0..) {
            let middle = top + line * line_height;
            let sample = vec![(0, middle), (SAMPLE, middle)];
            legend.draw(&PathElement::new(sample, colour.stroke_width(3)))?;
            let place = Pos::new(HPos::Left, VPos::Center);
            let style = ("sans-serif", TEXT).into_text_style(&legend).pos(place);
            legend.draw(&Text::new(series.name.clone(), (SAMPLE + GAP, middle), style))?;
        }
        Ok(chart)
    }

    fn draw<X, Y>(&self, area: &Area<'_>, x: X, y: Y) -> Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let font = ("sans-serif", TEXT);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", TEXT + 2))
            .margin(12)
            .margin_right(TEXT * 2)
            .x_label_area_size(TEXT * 3)
            .y_label_area_size(TEXT * 5)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_label_formatter(&|value| tick(*value))
            .y_label_formatter(&|value| tick(*value))
            .label_style(font)
            .light_line_style(WHITE)
            .draw()?;
        for (series, colour) in self.series.iter().zip(colours()) {
            let has = |point: &&(f64, f64)| self.x.has(point.0) && self.y.has(point.1);
            let points: Vec<(f64, f64)> = series.points.iter().filter(has).copied().collect();
            let marked = if points.len() <= MARKED_POINTS { points.clone() } else { Vec::new() };
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            chart.draw_series(
                marked.into_iter().map(|point| Circle::new(point, 3, colour.filled())),
            )?;
        }
        Ok(())
    }
}

fn colours() -> impl Iterator<Item = &'static RGBColor> {
    COLOURS.iter().cycle()
}

/// A tick of an axis: no digits that a round number does not need.
fn tick(value: f64) -> String {
    let text = number(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(x: Axis, y: Axis) -> Plot {
        let series = |name: &str, factor: f64| Series {
            name: name.into(),
            points: (0..5).map(|x| (f64::from(x), factor * f64::from(x))).collect(),
        };
        let series = vec![series("hold", 1.0), series("nothing & more", 10.0)];
        Plot { name: "a".into(), title: "pods <10>".into(), x, y, series }
    }

    #[test]
    fn a_plot_has_its_words_its_lines_and_a_mark_for_each_point() {
        let svg = plot(Axis::linear("pods"), Axis::linear("ms")).svg().unwrap();
        for word in ["pods &lt;10&gt;", "nothing &amp; more", ">\nhold", ">\nms", ">\npods"] {
            assert!(svg.contains(word), "{word} is not in {svg}");
        }
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 2, "the lines: {svg}");
        assert_eq!(svg.matches("stroke-width=\"3\"").count(), 2, "their samples: {svg}");
        assert_eq!(svg.matches("<circle").count(), 10);
        assert!(svg.contains("#FFFFFF"), "a reader's dark page would show through");
    }

    #[test]
    fn a_logarithmic_axis_leaves_out_what_has_no_place_on_it() {
        let svg = plot(Axis::linear("x"), Axis::log("y")).svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 8);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn an_axis_has_a_place_for_every_value() {
        let range = |axis: Axis, values: &[f64]| axis.range(values.iter().copied());
        assert_eq!(range(Axis::log("x"), &[0.0, 3.0, 250.0]), Some(1.0..1000.0));
        assert_eq!(range(Axis::log("x"), &[10.0]), Some(10.0..100.0));
        assert_eq!(range(Axis::linear("x"), &[0.0]), Some(0.0..1.0));
        assert_eq!(range(Axis::linear("x"), &[f64::NAN]), None);
        let linear = range(Axis::linear("x"), &[2.0, 100.0]).unwrap();
        assert!(linear.start == 0.0 && linear.end > 100.0);
    }

    #[test]
    fn a_plot_of_nothing_says_which() {
        let mut empty = plot(Axis::linear("x"), Axis::linear("y"));
        empty.series.clear();
        assert_eq!(empty.svg().unwrap_err().to_string(), "plot \"a\" has no points");
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!([0.01, 1.0, 250.0, 0.5].map(tick), ["0.01", "1", "250", "0.5"]);
    }
}
