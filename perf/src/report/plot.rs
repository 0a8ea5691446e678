//! Draws a [`Plot`] as SVG that stands in the page itself: no script, no font file, colours that the page's style sheet turns for the dark.

use std::io;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::element::{Circle, PathElement, Text};
use plotters::prelude::{DrawingArea, IntoDrawingArea, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle};

use super::axis::{Axis, Scale};
use super::json::NANOS_PER_MICRO;
use super::{Line, Plot};

/// Size on the page. Unit: pixels of the style sheet. Narrow enough to be read on a phone, where it shrinks by a third.
const SIZE: (i32, i32) = (540, 300);
/// Around the field: left, right, top, bottom. Unit: the same.
const MARGINS: (i32, i32, i32, i32) = (54, 32, 10, 44);
/// Steps of a pixel, because the library draws at whole ones.
const FINE: i32 = 8;
/// Height of a letter. Unit: pixels of the style sheet.
const FONT: i32 = 13;
/// What the library divides font sizes by (plotters-svg 0.3.7, `draw_text`).
const FONT_DIVISOR: f64 = 1.24;
/// Longest label of the right end that is centred below it. Unit: letters.
const LABEL_CENTRED_MAX: usize = 5;
/// Points of a line; of more, every n-th is drawn.
const POINTS_MAX: usize = 600;
/// Lines with at most so many points have a dot at each.
const DOTS_MAX: usize = 40;
/// Lines of the percentile plot for each halving of the distance to 100 %.
const STEPS_PER_HALF: u32 = 8;

/// Colours of lines, in turn. The style sheet knows them by value and has lighter ones for the dark.
pub(super) const COLOURS: [(u8, u8, u8); 8] = [
    (0x1f, 0x6f, 0xc9),
    (0xc9, 0x4f, 0x1f),
    (0x1d, 0x8f, 0x5f),
    (0x8d, 0x4f, 0xc2),
    (0xa8, 0x7a, 0x00),
    (0x00, 0x8f, 0xa6),
    (0xc2, 0x38, 0x7f),
    (0x6b, 0x72, 0x80),
];
/// Grid; the style sheet has a darker one.
const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
/// Letters; the style sheet gives them the colour of the page's text.
const INK: RGBColor = RGBColor(0x33, 0x38, 0x40);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The SVG of a plot.
///
/// # Errors
/// When the library cannot draw it.
pub(super) fn svg(plot: &Plot) -> io::Result<String> {
    let scale = |log| if log { Scale::Log } else { Scale::Linear };
    draw(plot, scale(plot.log_x), scale(plot.log_y))
}

/// Latency by percentile, as HdrHistogram's own plots: to the right the distance to 100 %, so that the tail has room.
///
/// # Errors
/// When the library cannot draw it.
pub(super) fn percentile_svg(plot: &Plot) -> io::Result<String> {
    draw(plot, Scale::Percentile, Scale::Time)
}

/// The plot of these histograms of nanoseconds by percentile. Unit: milliseconds.
pub(super) fn percentiles<'a>(latency: impl Iterator<Item = (&'a String, &'a Histogram<u64>)>) -> Plot {
    let lines = latency
        .filter(|(_, times)| !times.is_empty())
        .map(|(name, times)| Line { name: super::words::title(name), points: by_percentile(times) });
    Plot {
        title: "Latency by percentile".to_owned(),
        x_label: "percentile".to_owned(),
        y_label: "from the intended time".to_owned(),
        log_x: true,
        log_y: true,
        lines: lines.collect(),
    }
}

fn by_percentile(times: &Histogram<u64>) -> Vec<(f64, f64)> {
    let count = times.len() as f64;
    let steps = times.iter_quantiles(STEPS_PER_HALF);
    let points = steps.map(|step| {
        let left = 1.0 - step.quantile_iterated_to();
        // The largest of N values stands where one in N is larger or equal.
        let distance = if left > 0.0 { (1.0 / left).min(count) } else { count };
        (distance.max(1.0), step.value_iterated_to() as f64 / NANOS_PER_MICRO / 1e3)
    });
    points.collect()
}

fn draw(plot: &Plot, x_scale: Scale, y_scale: Scale) -> io::Result<String> {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let x = Axis::holding(points().map(|point| point.0), x_scale, false);
    let y = Axis::holding(points().map(|point| point.1), y_scale, true);
    let mut text = String::new();
    {
        let size = (u32::try_from(SIZE.0 * FINE), u32::try_from(SIZE.1 * FINE));
        let (Ok(width), Ok(height)) = size else { return Err(io::Error::other("a plot has no size")) };
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        frame(&area, plot, &x, &y)?;
        for (index, line) in plot.lines.iter().enumerate() {
            let drawn =
                line.points.iter().filter(|point| Axis::draws(x_scale, point.0) && Axis::draws(y_scale, point.1));
            let places: Vec<_> = drawn.map(|point| place(x.place(point.0), y.place(point.1))).collect();
            stroke(&area, &thinned(places), colour(index))?;
        }
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// Grid, ticks and labels.
fn frame(area: &Area<'_>, plot: &Plot, x: &Axis, y: &Axis) -> io::Result<()> {
    let grid = ShapeStyle { color: GRID.to_rgba(), filled: false, stroke_width: 8 };
    let (gap, bottom) = (8 * FINE, place(0.0, 0.0).1);
    for (value, label) in &y.ticks {
        let (left, right) = (place(0.0, y.place(*value)), place(1.0, y.place(*value)));
        area.draw(&PathElement::new(vec![left, right], grid)).map_err(failed)?;
        let at = (left.0 - gap, left.1);
        area.draw(&Text::new(label.as_str(), at, ink(HPos::Right, VPos::Center))).map_err(failed)?;
    }
    for (value, label) in &x.ticks {
        let (low, high) = (place(x.place(*value), 0.0), place(x.place(*value), 1.0));
        area.draw(&PathElement::new(vec![low, high], grid)).map_err(failed)?;
        // A long label at the end of the axis would not fit on the picture.
        let last = low.0 >= place(1.0, 0.0).0 && label.len() > LABEL_CENTRED_MAX;
        let (at, side) = if last { (SIZE.0 * FINE, HPos::Right) } else { (low.0, HPos::Center) };
        area.draw(&Text::new(label.as_str(), (at, bottom + gap), ink(side, VPos::Top))).map_err(failed)?;
    }
    let middle = (place(0.5, 0.0).0, SIZE.1 * FINE - gap);
    area.draw(&Text::new(plot.x_label.as_str(), middle, ink(HPos::Center, VPos::Bottom))).map_err(failed)
}

fn stroke(area: &Area<'_>, places: &[(i32, i32)], colour: RGBColor) -> io::Result<()> {
    let line = ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: 16 };
    area.draw(&PathElement::new(places.to_vec(), line)).map_err(failed)?;
    if places.len() <= DOTS_MAX {
        for at in places {
            area.draw(&Circle::new(*at, 3 * FINE, colour.filled())).map_err(failed)?;
        }
    }
    Ok(())
}

/// From shares of the field, counted from its lower left, to where it is drawn.
#[expect(clippy::cast_possible_truncation, reason = "a share of 0 to 1 of a few thousand")]
fn place(right: f64, up: f64) -> (i32, i32) {
    let (left, right_margin, top, bottom) = MARGINS;
    let (width, height) = (f64::from((SIZE.0 - left - right_margin) * FINE), f64::from((SIZE.1 - top - bottom) * FINE));
    (left * FINE + (right * width).round() as i32, top * FINE + ((1.0 - up) * height).round() as i32)
}

fn thinned(places: Vec<(i32, i32)>) -> Vec<(i32, i32)> {
    let every = places.len().div_ceil(POINTS_MAX).max(1);
    let last = places.len().saturating_sub(1);
    places.into_iter().enumerate().filter(|(index, _)| index % every == 0 || *index == last).map(|(_, at)| at).collect()
}

fn ink(horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let size = f64::from(FONT * FINE) * FONT_DIVISOR;
    TextStyle::from(("sans-serif", size).into_font()).color(&INK).pos(Pos::new(horizontal, vertical))
}

fn colour(index: usize) -> RGBColor {
    let (red, green, blue) = COLOURS[index % COLOURS.len()];
    RGBColor(red, green, blue)
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("a plot could not be drawn: {error}"))
}
