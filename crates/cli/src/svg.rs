//! The trajectory as a picture: its first two principal components, the plain mean in the middle.

use std::fmt::Write;

use thalweg_merge::geometry::Geometry;
use thalweg_storage::guard::OwnKind;

/// How such a picture is recognised.
pub(crate) const PLANE_FILE: OwnKind<'_> = OwnKind::text("a picture of `explain`", PLANE_TITLE);
const PLANE_TITLE: &str = "<title>Trajectory on its first two principal components</title>";

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 56.0;

/// An SVG of the plane of the first two components, readable on light and dark ground.
pub(crate) fn draw_plane(geometry: &Geometry, labels: &[String]) -> String {
    let frame = Frame::around(&geometry.plane);
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">{PLANE_TITLE}\
         <style>text{{fill:#333}}.axis{{stroke:#999}}.path{{stroke:#2563a8;fill:none}}.dot{{fill:#2563a8}}.mean{{fill:#c2410c}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}.path{{stroke:#7ab3ef}}.dot{{fill:#7ab3ef}}.mean{{fill:#fb923c}}}}</style>"
    );
    let points: Vec<(f64, f64)> = geometry.plane.iter().map(|&point| frame.place(point)).collect();
    let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(svg, "<polyline class=\"path\" stroke-width=\"1.5\" points=\"{}\"/>", line.join(" "));
    // Labels on every point of a long run would cover each other.
    let every = points.len().div_ceil(12).max(1);
    for (i, ((x, y), label)) in points.iter().zip(labels).enumerate() {
        let label = escape(label);
        let _ =
            write!(svg, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{label}</title></circle>");
        if i % every == 0 || i + 1 == points.len() {
            let _ = write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{label}</text>", x + 6.0, y - 6.0);
        }
    }
    let (x, y) = frame.place([0.0, 0.0]);
    let _ = write!(
        svg,
        "<circle class=\"mean\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\"/><text x=\"{:.1}\" y=\"{:.1}\">plain mean</text>",
        x + 9.0,
        y + 4.0
    );
    let share = |k: usize| geometry.component_shares.get(k).copied().unwrap_or(0.0) * 100.0;
    let walk = geometry.random_walk_shares.first().copied().unwrap_or(0.0) * 100.0;
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{:.0}\">first component: {:.1} % of the variance (a random walk: {walk:.1} %)</text>\
         <text transform=\"translate(18 {:.0}) rotate(-90)\">second component: {:.1} %</text></svg>",
        HEIGHT - 16.0,
        share(0),
        HEIGHT - MARGIN,
        share(1)
    );
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// One scale for both axes, so that distances are seen as they are.
struct Frame {
    centre: [f64; 2],
    scale: f64,
}

impl Frame {
    fn around(points: &[[f64; 2]]) -> Self {
        let range = |axis: usize| {
            // The mean is at the origin and belongs to the picture.
            points
                .iter()
                .map(|point| point[axis])
                .fold((0.0f64, 0.0f64), |(low, high), value| (low.min(value), high.max(value)))
        };
        let ((x_low, x_high), (y_low, y_high)) = (range(0), range(1));
        let fit = |room: f64, span: f64| if span > 0.0 { room / span } else { f64::INFINITY };
        let scale = fit(WIDTH - 2.5 * MARGIN, x_high - x_low).min(fit(HEIGHT - 2.0 * MARGIN, y_high - y_low));
        let scale = if scale.is_finite() { scale } else { 1.0 };
        Self { centre: [f64::midpoint(x_low, x_high), f64::midpoint(y_low, y_high)], scale }
    }

    fn place(&self, [x, y]: [f64; 2]) -> (f64, f64) {
        (WIDTH / 2.0 + (x - self.centre[0]) * self.scale, HEIGHT / 2.0 - (y - self.centre[1]) * self.scale)
    }
}
