// The gallery: clips on their timelines, drawn as they are asked for.
const AT_ONCE = 6; // clips drawn before the reader asks for more
const state = { kind: "worst", category: null, shown: AT_ONCE };
const MOST = 24; // of all categories together: beyond them the lists hold only some of each category
const STROKES = 6; // that report.css has
const strokeOf = (index) => `stroke-${index % STROKES}`;
const groupOf = (clip) => clip.t.find((index) => index !== BACKGROUND) ?? BACKGROUND;
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const LEVEL = Object.fromEntries([...DIGITS].map((digit, level) => [digit, level / 63]));

function kindOfError(target, predicted) {
  if (target === predicted) return null;
  return predicted === BACKGROUND ? "missed" : target === BACKGROUND ? "alarm" : "wrong";
}

function segmentRow(clip, mark) {
  const row = make("div", { class: "row" });
  clip.t.forEach((target, second) => {
    const error = mark ? kindOfError(target, clip.p[second]) : null;
    const shown = mark ? clip.p[second] : target;
    const kind = error ?? (shown === BACKGROUND ? "" : "event");
    row.append(make("div", { class: `seg ${kind}`, title: `second ${second}: ${names[shown]}${error ? ` (${ERRORS[error].name})` : ""}` }, error ? ERRORS[error].sign : ""));
  });
  return row;
}

function curves(clip) {
  const n = clip.t.length;
  const picture = draw("svg", { viewBox: `0 0 ${n} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `${data.scores.map(titleOf).join(", ")} along the clip` });
  for (const value of [0, 0.5, 1]) picture.append(draw("path", { class: "grid", d: `M0 ${value}H${n}` }));
  const lines = clip.s.map((values, index) =>
    draw("path", { class: strokeOf(index), d: values.map((value, t) => `${t ? "L" : "M"}${t + 0.5} ${(1 - value / 100).toFixed(3)}`).join("") }));
  picture.append(...lines.reverse()); // the event probability, which is the first, lies on top
  return make("div", { class: "curves" }, picture);
}

function pictures(clip) {
  const [height, width] = data.grid ?? [0, 0], cells = height * width, n = clip.t.length;
  const colour = clip.f ? "255, 205, 0" : getComputedStyle(document.documentElement).getPropertyValue("--attention");
  const row = make("div", { class: "row" });
  for (let t = 0; t < n; t++) {
    const picture = make("div", { class: "picture" });
    if (clip.f) {
      picture.style.backgroundImage = `url(${clip.f})`;
      picture.style.backgroundSize = `${100 * n}% 100%`;
      picture.style.backgroundPosition = `${(100 * t) / Math.max(1, n - 1)}% 0`;
    }
    if (clip.m && (!clip.f || byId("overlay").checked)) {
      const canvas = make("canvas", { width, height }), context = canvas.getContext("2d");
      for (let k = 0; k < cells; k++) {
        context.fillStyle = `rgba(${colour}, ${LEVEL[clip.m[t * cells + k]] * (clip.f ? 0.7 : 1)})`;
        context.fillRect(k % width, Math.floor(k / width), 1, 1);
      }
      picture.append(canvas);
    }
    row.append(picture);
  }
  return row;
}

function card(clip) {
  const n = clip.t.length, right = clip.t.filter((target, t) => target === clip.p[t]).length;
  const label = (text) => make("div", { class: "label" }, text);
  const said = [...new Set(clip.p.filter((index) => index !== BACKGROUND))].map((index) => names[index]);
  const truth = [...new Set(clip.t.filter((index) => index !== BACKGROUND))].map((index) => names[index]);
  const [true_, said_] = [truth.join(", ") || "background", said.join(", ") || "background only"];
  const grid = make("div", { class: "timeline", style: `--segments:${n}` },
    label("annotated"), segmentRow(clip, false),
    label("predicted"), segmentRow(clip, true),
    make("div", { class: "label scale" }, make("span", {}, "1"), make("span", {}, "scores"), make("span", {}, "0")), curves(clip));
  if (clip.m || clip.f) grid.append(label(clip.f ? "frames" : "attention"), pictures(clip));
  const ticks = Array.from({ length: n + 1 }, (_, t) => make("span", {}, String(t)));
  grid.append(label("seconds"), make("div", { class: "axis" }, ...ticks));
  const note = clip.m ? make("div", { class: "muted note" }, `attention from ${clip.scale[0].toFixed(1)} (faintest) to ${clip.scale[1].toFixed(1)} times the even share`) : null;
  return make("article", { class: "clip" },
    make("h3", {}, true_, said_ === true_ ? null : make("span", { class: "muted" }, `predicted: ${said_}`),
      make("span", { class: "muted end number" }, `${clip.id ?? `row ${clip.row}`} · ${right}/${n} right`)),
    grid, note);
}

function showClips() {
  const list = data.gallery[state.kind].map((index) => data.clips[index]);
  const wanted = state.category === null ? list.slice(0, MOST) : list.filter((clip) => groupOf(clip) === state.category);
  byId("gallery").replaceChildren(...wanted.slice(0, state.shown).map(card));
  byId("more").parentElement.hidden = wanted.length <= state.shown;
  byId("count").textContent = wanted.length ? `${Math.min(state.shown, wanted.length)} of ${plural(wanted.length, `${state.kind} clip`)}` : "no clip";
  for (const button of byId("kinds").children) button.setAttribute("aria-pressed", String(button.dataset.kind === state.kind));
}

function clips() {
  const set = (change) => { Object.assign(state, { shown: AT_ONCE }, change); showClips(); };
  for (const kind of Object.keys(data.gallery)) {
    const button = make("button", { type: "button", "data-kind": kind }, kind[0].toUpperCase() + kind.slice(1));
    button.addEventListener("click", () => set({ kind }));
    byId("kinds").append(button);
  }
  const present = new Set(data.clips.map(groupOf));
  const options = names.map((name, index) => ({ name: index === BACKGROUND ? "no event" : name, index })).filter((option) => present.has(option.index));
  options.sort((one, other) => (one.index === BACKGROUND) - (other.index === BACKGROUND) || one.name.localeCompare(other.name));
  byId("filter").append(make("option", { value: "" }, "all"), ...options.map((option) => make("option", { value: option.index }, option.name)));
  byId("filter").addEventListener("change", (event) => set({ category: event.target.value === "" ? null : Number(event.target.value) }));
  byId("more").addEventListener("click", () => set({ shown: state.shown + AT_ONCE }));
  byId("overlay-label").hidden = !(data.grid && data.clips.some((clip) => clip.f));
  byId("overlay").addEventListener("change", showClips);
  if (data.frames_note) { byId("frames-note").textContent = data.frames_note; byId("frames-note").hidden = false; }
  const mark = (kind, sign, text) => make("span", {}, make("span", { class: `swatch ${kind}` }, sign), text);
  const stroke = (kind, text) => make("span", {}, draw("svg", { class: "sample", viewBox: "0 0 28 10" }, draw("path", { class: kind, d: "M0 5H28", "stroke-width": 2.5, fill: "none" })), text);
  byId("legend").append(mark("event", "", "event"), mark("none", "", "background"),
    ...Object.entries(ERRORS).map(([kind, error]) => mark(kind, error.sign, error.name)),
    ...data.scores.map((name, index) => stroke(strokeOf(index), titleOf(name))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showClips);
  showClips();
}

header(); headline(); mix(); findings(); namingAndTiming(); categoryTable(); confusion(); time(); scores(); histograms(); calibration();
clips();
