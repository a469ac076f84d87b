"use strict";
// Everything that comes from files (category names, ids) enters the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const metrics = data.metrics;
const names = [...metrics.categories, "background"];
const BACKGROUND = metrics.categories.length;
const FEW = 5; // clips below which a share says little
const ERRORS = {
  missed: { name: "missed event", sign: "−" },
  alarm: { name: "false alarm", sign: "+" },
  wrong: { name: "wrong category", sign: "≠" },
};

const titleOf = (score) => score.replaceAll("_", " ");
const byId = (id) => document.getElementById(id);
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  return fill(node, attributes, children);
}
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(byId("svg").namespaceURI, tag), attributes, children);
}
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const whole = (value) => value.toLocaleString("en");
const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const seconds = (count) => `${count} second${count === 1 ? "" : "s"}`;

function header() {
  const epoch = metrics.epoch === null ? "" : `, epoch ${metrics.epoch}`;
  byId("title").textContent = `${metrics.model ?? "Evaluation"} on the ${metrics.split} split`;
  byId("subtitle").textContent =
    `${metrics.checkpoint}${epoch} · ${plural(metrics.clips, "clip")} · ${metrics.localization}`;
  byId("fewer").hidden = !(metrics.clips < metrics.official_clips);
  byId("fewer").textContent = `Only ${whole(metrics.clips)} of the ${metrics.official_clips} clips of AVE's ` +
    `${metrics.split} split: results on fewer clips can't be compared with published ones.`;
  byId("learned-from").hidden = !data.learned_from;
  byId("learned-from").textContent = `Weak supervision: it learned from ${data.learned_from}.`;
  byId("generated").hidden = !metrics.generated;
  document.title = byId("title").textContent;
}

function headline() {
  const tile = (value, title, detail) =>
    make("div", { class: "tile" }, make("span", {}, title),
      make("b", { class: "number" }, value === null ? "–" : percent(value, 2), make("small", {}, value === null ? "" : " %")),
      make("span", {}, detail));
  const p = metrics.protocols;
  const unknown = "not known: no training record beside this checkpoint";
  byId("headline").append(
    tile(metrics.accuracy, "This checkpoint", `of ${whole(metrics.segments)} segments of the ${metrics.split} split are right`),
    tile(p ? p.authors.test_accuracy : null, "Authors' protocol",
      p ? `test accuracy at epoch ${p.authors.epoch}, the best on the test split itself` : unknown),
    tile(p?.validation ? p.validation.test_accuracy : null, "Validation protocol",
      p?.validation ? `test accuracy at epoch ${p.validation.epoch}, the best on the val split ` +
        `(${percent(p.validation.val_accuracy, 2)} % there)` : p ? "not available: the data have no val split" : unknown),
  );
  const leaked = metrics.accuracy_without_leaked === undefined ? ""
    : `Without the ${plural(metrics.leaked_clips, "clip")} whose video is also in the training split: ` +
      `${percent(metrics.accuracy_without_leaked, 2)} %. `;
  byId("comparison").textContent = `${leaked}For comparison: the right category in every segment would give ` +
    `${percent(metrics.right_category_everywhere, 2)} %, the best possible single label per clip ${percent(metrics.best_single_label, 2)} %.`;
}

function mix() {
  const parts = [
    ["right", metrics.accuracy, "right", "", "event"],
    ["missed", metrics.errors.missed, "missed events", ERRORS.missed.sign, "missed"],
    ["alarm", metrics.errors.false_alarm, "false alarms", ERRORS.alarm.sign, "alarm"],
    ["wrong", metrics.errors.wrong_category, "wrong category", ERRORS.wrong.sign, "wrong"],
  ];
  const bar = make("div", { class: "bar", role: "img", "aria-label": parts.map((p) => `${p[2]} ${percent(p[1])} %`).join(", ") });
  const legend = make("div", { class: "legend" });
  for (const [colour, share, name, sign, swatch] of parts) {
    if (share > 0) bar.append(make("div", { style: `flex:${share} 0 0;background:var(--${colour})`, title: `${name} ${percent(share)} %` }));
    legend.append(make("span", {}, make("span", { class: `swatch ${swatch}` }, sign),
      make("span", { class: "number" }, `${name} ${percent(share)} %`)));
  }
  byId("mix").append(bar, legend);
}

const pairs = confusedPairs();
function confusedPairs() {
  const found = [];
  metrics.confusion_matrix.forEach((row, target) => {
    const segments = row.reduce((sum, count) => sum + count, 0);
    row.forEach((count, predicted) => {
      if (predicted !== target && count) found.push({ target, predicted, count, share: (100 * count) / segments });
    });
  });
  return found.sort((one, other) => other.count - one.count);
}

function findings() {
  const said = [];
  const kinds = [["missed events", metrics.errors.missed], ["false alarms", metrics.errors.false_alarm],
    ["wrong categories", metrics.errors.wrong_category]].sort((one, other) => other[1] - one[1]);
  const all = kinds.reduce((sum, kind) => sum + kind[1], 0);
  if (all > 0) said.push(["Most errors are ", kinds[0][0], `: ${percent((100 * kinds[0][1]) / all, 0)} % of them.`]);
  const rows = metrics.per_category.slice(0, BACKGROUND).filter((row) => row.clips >= FEW);
  const weakest = [...rows].sort((one, other) => one.accuracy - other.accuracy).slice(0, 3);
  if (rows.length > 3)
    said.push(["Weakest categories: ", weakest.map((row) => `${row.category} (${percent(row.accuracy, 0)} %)`).join("; "),
      " of the segments right."]);
  const mistaken = pairs.find((pair) => pair.target !== BACKGROUND && pair.predicted !== BACKGROUND);
  if (mistaken)
    said.push(["Most often mistaken: ", `“${names[mistaken.target]}” for “${names[mistaken.predicted]}”`,
      ` (${plural(mistaken.count, "segment")}, ${percent(mistaken.share, 0)} % of that category's).`]);
  const low = (list) => list.filter((row) => row.accuracy !== null).sort((one, other) => one.accuracy - other.accuracy)[0];
  const length = low(metrics.by_event_length.filter((row) => row.clips >= FEW));
  if (length && metrics.by_event_length.length > 1)
    said.push(["Hardest event length: ", seconds(length.seconds),
      ` (${percent(length.accuracy, 0)} % in ${plural(length.clips, "clip")}).`]);
  const hardest = low(metrics.by_position.filter((row) => row.segments));
  if (hardest) said.push(["Hardest position: ", POSITIONS[hardest.position] ?? hardest.position, ` (${percent(hardest.accuracy, 0)} % right).`]);
  for (const [low, high, before, after] of [
    [60, Infinity, "Scores that tell events from background: ", ", where 50 is chance."],
    [45, 60, "Scores that hardly tell events from background: ", ", where 50 is chance."],
    [-Infinity, 45, "Scores that are the wrong way round: ", "; background scores above events."],
  ]) {
    const alike = Object.entries(metrics.separation).filter(([, { auc }]) => auc !== null && auc >= low && auc < high);
    if (alike.length) said.push([before, alike.map(([name, { auc }]) => `${titleOf(name)} (AUC ${percent(auc, 0)})`).join(", "), after]);
  }
  for (const [before, strong, after] of said) byId("findings").append(make("li", {}, before, make("strong", {}, strong), after));
}
const POSITIONS = {
  before: "background before the event", "first second": "an event's first second", inside: "inside an event",
  "last second": "an event's last second", after: "background after the event",
};

function namingAndTiming() {
  const values = metrics.naming_and_timing;
  if (!values) return; // an earlier version's evaluation
  const rows = [
    ["Segment right", "naming and timing", metrics.accuracy],
    ["Clip's category right", "naming alone", values.category_accuracy],
    ["Event or background right", "timing alone, whatever the category", values.event_background_accuracy],
    ["Segment F1", "naming and timing, each category of a clip alike", values.segment_f1],
    ["Event F1 at IoU 0.5", "naming, and whole events where they are", values.event_f1],
  ];
  byId("apart").hidden = false;
  byId("naming-and-timing").append(
    make("thead", {}, make("tr", {}, make("th", {}, "Score"), make("th", {}, "What it asks"), make("th", { class: "n" }, "%"))),
    make("tbody", {}, ...rows.map(([name, asks, value]) => make("tr", {}, make("td", {}, name), make("td", {}, asks),
      make("td", { class: "n" }, percent(value, 2))))));
}

function categoryTable() {
  const columns = [["category", "Category"], ["accuracy", "Accuracy"], ["precision", "Precision"], ["recall", "Recall"],
    ["f1", "F1"], ["clips", "Clips"]];
  const rows = metrics.per_category.slice(0, BACKGROUND);
  const table = byId("categories"), head = make("tr"), body = make("tbody");
  let sorted = "accuracy", ascending = true;
  const cell = (row, key) => {
    if (key === "category") return make("td", {}, row[key]);
    return make("td", { class: `n ${key}` }, key === "clips" ? whole(row[key]) : percent(row[key]));
  };
  const line = (row, aside) => {
    const meter = make("td", { class: "hide-narrow" }, make("span", { class: "meter" }, make("i", { style: `width:${row.accuracy ?? 0}%` })));
    const cells = columns.map(([key]) => cell(row, key));
    cells.splice(1, 0, meter);
    return make("tr", aside ? { class: "aside" } : {}, ...cells);
  };
  const show = () => {
    const order = [...rows].sort((one, other) => {
      const [x, y] = [one[sorted], other[sorted]];
      if (x === null || y === null) return (x === null) - (y === null); // nothing to compare: at the end
      const difference = typeof x === "string" ? x.localeCompare(y) : x - y;
      return ascending ? difference : -difference;
    });
    body.replaceChildren(...order.map((row) => line(row)), line(metrics.per_category[BACKGROUND], true));
    [...head.children].forEach((th) => {
      if (th.dataset.key === sorted) th.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
    });
  };
  for (const [key, title] of columns) {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      ascending = sorted === key ? !ascending : key === "category" || key !== "clips";
      sorted = key;
      show();
    });
    head.append(make("th", { class: key === "category" ? "" : `n ${key}`, scope: "col", "data-key": key }, button));
    if (key === "category") head.append(make("th", { class: "hide-narrow" }));
  }
  table.append(make("thead", {}, head), body);
  show();
}

function confusion() {
  const matrix = metrics.confusion_matrix, n = matrix.length;
  const named = n <= 45; // more names than that can't be read; pointing at a cell tells them
  const size = n <= 12 ? 28 : named ? 17 : Math.max(2, Math.floor(600 / n)); // pixels a cell
  const gap = named ? 1 : 0;
  const short = (name) => (name.length > 22 ? name.slice(0, 21).trimEnd() + "…" : name);
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `600 11px ${getComputedStyle(document.body).fontFamily}`;
  const room = named ? 10 + Math.max(...names.map((name) => ruler.measureText(short(name)).width)) : 1; // for the labels
  const picture = draw("svg", { width: room + n * size + 12, height: room + n * size + 22, role: "img",
    "aria-label": "Confusion matrix: annotated category in rows, predicted in columns" });
  const sums = matrix.map((row) => row.reduce((sum, count) => sum + count, 0));
  const labels = { row: [], column: [] };
  names.forEach((name, i) => {
    const middle = room + (i + 0.5) * size;
    labels.row.push(draw("text", { x: room - 5, y: middle + 4, "text-anchor": "end" }, short(name)));
    labels.column.push(draw("text", { transform: `translate(${middle + 4} ${room - 5}) rotate(-90)` }, short(name)));
  });
  if (named) picture.append(...labels.row, ...labels.column);
  picture.append(draw("rect", { class: "frame", x: room - 0.5, y: room - 0.5, width: n * size + 1, height: n * size + 1 }));
  picture.append(draw("text", { x: room + (n * size) / 2, y: room + n * size + 16, "text-anchor": "middle" }, "predicted (columns), annotated (rows)"));
  matrix.forEach((row, i) => row.forEach((count, j) => {
    if (!count) return;
    const opacity = Math.max(0.12, Math.sqrt(count / sums[i])); // the root: a few per cent can still be seen
    picture.append(draw("rect", { class: i === j ? "cell" : "cell off", x: room + j * size + gap / 2, y: room + i * size + gap / 2,
      width: size - gap, height: size - gap, "fill-opacity": opacity.toFixed(3) }));
  }));
  const pick = draw("rect", { class: "pick", width: size, height: size, visibility: "hidden" });
  picture.append(pick);
  let hot = [];
  const hint = "Blue: right, red: wrong; the stronger, the larger the share of the row. Point at a cell to read it.";
  byId("readout").textContent = hint;
  const point = (event) => {
    const box = picture.getBoundingClientRect();
    const j = Math.floor((event.clientX - box.left - room) / size), i = Math.floor((event.clientY - box.top - room) / size);
    hot.forEach((label) => label.classList.remove("hot"));
    if (i < 0 || j < 0 || i >= n || j >= n) {
      pick.setAttribute("visibility", "hidden");
      return;
    }
    hot = [labels.row[i], labels.column[j]];
    hot.forEach((label) => label.classList.add("hot"));
    fill(pick, { x: room + j * size, y: room + i * size, visibility: "visible" }, []);
    const share = sums[i] ? ` (${percent((100 * matrix[i][j]) / sums[i])} % of ${plural(sums[i], "segment")})` : "";
    byId("readout").textContent = `${names[i]} predicted as ${names[j]}: ${plural(matrix[i][j], "segment")}${share}`;
  };
  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerdown", point);
  byId("confusion").append(picture);

  const head = make("tr", {}, make("th", {}, "Annotated"), make("th", {}, "Predicted"), make("th", { class: "n" }, "Segments"), make("th", { class: "n" }, "%"));
  const body = make("tbody", {}, ...pairs.slice(0, 12).map((pair) => make("tr", {}, make("td", {}, names[pair.target]),
    make("td", {}, names[pair.predicted]), make("td", { class: "n" }, whole(pair.count)), make("td", { class: "n" }, percent(pair.share)))));
  byId("confusions").append(make("thead", {}, head), body);
}

function barChart(caption, rows, below) {
  const bars = rows.map((row) => make("div", { title: `${row.name}: ${percent(row.accuracy)} %${row.note ? `, ${row.note}` : ""}` },
    make("div", { class: "room" }, row.accuracy === null ? null : percent(row.accuracy, 0), make("i", { style: `height:${0.8 * (row.accuracy ?? 0)}%` })),
    row.name, make("small", {}, row.small)));
  return make("figure", {}, make("figcaption", {}, caption), make("div", { class: "chart" }, ...bars), make("p", { class: "muted" }, below));
}

function time() {
  byId("time").append(
    barChart("By length of the event, %", metrics.by_event_length.map((row) => ({ name: row.seconds, small: row.clips, accuracy: row.accuracy, note: plural(row.clips, "clip") })),
      "Seconds of event in the clip; below, clips."),
    barChart("By second of the clip, %", metrics.by_second.map((row) => ({ name: row.second, small: percent(row.event_share, 0), accuracy: row.accuracy, note: `${percent(row.event_share, 0)} % events` })),
      "Second of the clip, from 0; below, the share of segments with an event, %."),
    barChart("By position relative to the event, %", metrics.by_position.map((row) => ({ name: row.position, small: row.segments, accuracy: row.accuracy, note: plural(row.segments, "segment") })),
      "Background before, an event's first second, inside, its last second, background after; below, segments."),
  );
}

function scores() {
  const table = (caption, head, rows) => make("figure", {}, make("figcaption", {}, caption), make("div", { class: "scroll" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", i ? { class: "n" } : {}, text)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text, i) => make("td", i ? { class: "n" } : {}, text))))))));
  const event = (title, values) => [title, percent(values.precision), percent(values.recall), percent(values.f1)];
  const share = metrics.confusion_matrix.slice(0, BACKGROUND).flat().reduce((sum, count) => sum + count, 0) / metrics.segments;
  byId("scores").append(
    table(`Events, %: ${whole(metrics.events.predicted)} predicted, ${whole(metrics.events.annotated)} annotated`, ["", "Precision", "Recall", "F1"],
      [event("IoU 0.5", metrics.events["iou_0.5"]), event("mean of IoU 0.1 to 0.9", metrics.events["iou_0.1_to_0.9"])]),
    table("Telling event from background segments, %", ["", "AP", "AUC", "calibration error"],
      [...Object.entries(metrics.separation).map(([name, { ap, auc }]) => [titleOf(name), percent(ap), percent(auc), percent(metrics.calibration[name].error)]),
        ["knows nothing", percent(100 * share), "50.0", "–"]]));
}

const capitalized = (text) => text[0].toUpperCase() + text.slice(1);

function histograms() {
  const width = 200, height = 90, top = 4;
  for (const [key, { range, event, background }] of Object.entries(data.histograms)) {
    const shares = (counts) => counts.map((count) => count / Math.max(1, counts.reduce((sum, one) => sum + one, 0)));
    const of_events = shares(event), of_background = shares(background), most = Math.max(...of_events, ...of_background);
    const step = width / event.length, y = (share) => top + height * (1 - share / most);
    const picture = draw("svg", { class: "histogram", viewBox: `0 0 ${width + 8} ${top + height + 18}`, role: "img", "aria-label": `${titleOf(key)} of event and background segments` });
    of_events.forEach((share, k) => picture.append(draw("rect", { x: 4 + k * step, width: step - 1, y: y(share), height: top + height - y(share) },
      draw("title", {}, `${plural(event[k], "event segment")}, ${plural(background[k], "background segment")}`))));
    const steps = of_background.map((share, k) => `${4 + k * step},${y(share)} ${4 + (k + 1) * step},${y(share)}`);
    picture.append(draw("polyline", { points: `4,${top + height} ${steps.join(" ")} ${4 + width},${top + height}` }),
      draw("text", { x: 4, y: top + height + 14 }, range[0].toFixed(2)),
      draw("text", { x: 4 + width, y: top + height + 14, "text-anchor": "end" }, range[1].toFixed(2)));
    byId("histograms").append(make("figure", {}, make("figcaption", {}, `${capitalized(titleOf(key))}: AUC ${percent(metrics.separation[key].auc)}`), picture));
  }
}

function calibration() {
  const side = 170, left = 34, top = 8, histogram = 44, gap = 10;
  for (const [key, { bins }] of Object.entries(metrics.calibration)) {
    const name = titleOf(key), most = Math.max(1, ...bins.map((bin) => bin.segments));
    const x = (value) => left + value * side, y = (value) => top + (1 - value) * side;
    const picture = draw("svg", { class: "calibration", viewBox: `0 0 ${left + side + 10} ${top + side + gap + histogram + 32}`, role: "img", "aria-label": `Calibration of the ${name}` });
    for (const value of [0, 0.5, 1])
      picture.append(draw("line", { x1: left, x2: left + side, y1: y(value), y2: y(value), stroke: "var(--line)" }),
        draw("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, String(value)),
        draw("text", { x: x(value), y: top + side + gap + histogram + 14, "text-anchor": "middle" }, String(value)));
    picture.append(draw("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), stroke: "var(--muted)", "stroke-dasharray": "2 4" }));
    const points = bins.filter((bin) => bin.segments).map((bin) => [x(bin.score), y(bin.event_share), bin]);
    picture.append(draw("polyline", { points: points.map((point) => point.slice(0, 2).join(",")).join(" "), fill: "none", stroke: "var(--right)", "stroke-width": 2 }));
    for (const [px, py, bin] of points) // the larger, the more segments
      picture.append(draw("circle", { cx: px, cy: py, r: 2 + 4 * Math.sqrt(bin.segments / most), fill: "var(--right)" }, draw("title", {}, `score ${bin.score.toFixed(2)}: ${percent(100 * bin.event_share)} % events in ${plural(bin.segments, "segment")}`)));
    const base = top + side + gap + histogram;
    bins.forEach((bin, k) => {
      const height = (histogram * bin.segments) / most;
      picture.append(draw("rect", { x: left + (k * side) / bins.length + 1, width: side / bins.length - 2, y: base - height, height, fill: "var(--missed)" }, draw("title", {}, plural(bin.segments, "segment"))));
    });
    picture.append(draw("line", { x1: left, x2: left + side, y1: base, y2: base, stroke: "var(--muted)" }),
      draw("text", { x: left + side / 2, y: base + 28, "text-anchor": "middle" }, "score"));
    byId("calibration").append(make("figure", {}, make("figcaption", {}, capitalized(name)), picture));
  }
}

