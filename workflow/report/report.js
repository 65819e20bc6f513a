// The report's behaviour. Data lie in the page as base64 of gzipped JSON, one block at a time is unpacked when it is
// first looked at; text from data only ever becomes textContent.
const page = JSON.parse(document.getElementById("page").textContent);
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const dark = matchMedia("(prefers-color-scheme: dark)");

const opened = new Map();
function block(id) {
  if (!opened.has(id)) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    opened.set(id, new Response(stream).json());
  }
  return opened.get(id);
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const percent = (x) => (x === null || x === undefined ? "" : `${(100 * x).toFixed(Math.abs(x) < 0.1 ? 1 : 0)}%`);
const fixed = (x, digits = 2) => (x === null || x === undefined ? "" : x.toFixed(digits));
function short(x) {
  if (x === null || x === undefined) return "";
  if (x !== 0 && Math.abs(x) < 0.001) return x.toExponential(1);
  return String(Number(x.toPrecision(3)));
}

// ------------------------------------------------------------------ charts

function themed(spec) {
  if (!dark.matches) return structuredClone(spec);
  const swap = new Map(Object.entries(page.swap));
  return JSON.parse(JSON.stringify(spec), (_, value) => (typeof value === "string" && swap.get(value)) || value);
}

async function draw(spec, target) {
  const narrow = target.clientWidth < 460;
  const copy = themed(spec);
  const config = structuredClone(dark.matches ? page.themes.dark : page.themes.light);
  if (narrow) {
    config.axis.labelLimit = 110;
    config.legend.columns = 2;
    config.legend.labelLimit = 140;
    if (copy.padding && copy.padding.right > 20) copy.padding.right = 92;
  }
  const options = { actions: false, logLevel: 1, renderer: "svg", config, tooltip: { theme: dark.matches ? "dark" : "light" } };
  target.view?.finalize();
  target.view = (await vegaEmbed(target, copy, options)).view;
}

// Interval rules and layered marks repeat an aria-label a mark; one name a picture says more to a screen reader.
async function show(figure) {
  const tab = figure.closest("[role=tabpanel]").id;
  const spec = (await block(`charts-${tab}`))[figure.dataset.name];
  const target = $(".plot", figure);
  target.setAttribute("role", "img");
  target.setAttribute("aria-label", $("figcaption strong", figure).textContent);
  await draw(spec, target);
  target.style.minHeight = "";
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      show(entry.target).catch(fail);
    }
  },
  { rootMargin: "200px" },
);
const fail = (error) => {
  console.error(error);
  throw error;
};
const plots = $$("figure.chart").filter((figure) => $(".plot", figure));
plots.forEach((figure) => seen.observe(figure));
dark.addEventListener("change", () => {
  plots.forEach((figure) => seen.observe(figure));
  if (current) openLatent(current.sae, current.latent);
});

// ------------------------------------------------------------------ choices: which of a section's charts are shown

const COLUMNS_FOR = { 1: 1, 3: 3, 5: 3, 6: 3 }; // charts side by side, by their number; 2 otherwise
for (const section of $$("section.block")) {
  const selects = $$("select[data-pick]", section);
  const update = () => {
    for (const figure of $$("figure.chart", section))
      figure.hidden = selects.some((select) => {
        const own = figure.dataset[select.dataset.pick];
        return own !== undefined && own !== select.value;
      });
    const box = $(".charts", section);
    if (box) box.dataset.columns = COLUMNS_FOR[$$("figure.chart:not([hidden])", box).length] ?? 2;
  };
  selects.forEach((select) => select.addEventListener("change", update));
  update();
}

// ------------------------------------------------------------------ tabs

const tabs = $$("[role=tab]");
function choose(tab, focus = false) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (tab.id === "tab-latents") list().then(first).catch(fail);
}
for (const tab of tabs) {
  tab.addEventListener("click", () => {
    choose(tab);
    scrollTo(0, 0);
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : step && tabs.indexOf(tab) + step;
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    choose(next, true);
    history.replaceState(null, "", `#${next.getAttribute("aria-controls")}`);
  });
}

// ------------------------------------------------------------------ tables that sort

for (const table of $$("table.sortable"))
  $$("thead th", table).forEach((head, column) =>
    $("button", head).addEventListener("click", () => {
      const number = head.classList.contains("num");
      const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : number;
      $$("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = $("tbody", table);
      const key = (row) => {
        const cell = row.cells[column];
        if (!number) return cell.textContent;
        return cell.dataset.sort === undefined ? NaN : Number(cell.dataset.sort);
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      const missing = (x) => number && Number.isNaN(x);
      rows.sort(([a], [b]) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = number ? a - b : a.localeCompare(b, "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    }),
  );

// ------------------------------------------------------------------ the list of latents: only rows in view are made

const ROW = 30;
const COLUMNS = [
  { key: "latent", title: "latent", text: (i) => String(i), number: true },
  { key: "concept", title: "best concept", text: (i) => name(i) },
  { key: "f1", title: "F1", text: (i) => fixed(index.f1[i]), number: true },
  { key: "density", title: "active", text: (i) => percent(index.density[i]), number: true },
  { key: "concepts", title: "concepts", text: (i) => String(index.concepts[i] ?? ""), number: true },
  { key: "effect", title: "steered", text: (i) => (index.effect[i] === null ? "" : `${index.effect[i] > 0 ? "+" : ""}${(100 * index.effect[i]).toFixed(0)}%`), number: true },
];
let index = null; // columns of the chosen SAE
let order = []; // its latents, as filtered and sorted
let sorting = { key: "f1", down: true };
let current = null;
const name = (i) => (index.concept[i] === null ? "" : index.names[index.concept[i]]);

async function list() {
  const key = $("#which").value;
  if (!key) return; // no SAE was compared with concepts
  const found = await block(`index-${key}`);
  if ($("#which").value !== key) return; // another was chosen meanwhile
  index = found;
  index.key = key;
  arrange();
}

// The first latent of the list stands beside it until another is chosen; where there is room for one only, the list does.
function first() {
  const named = location.hash.split("/").length > 1 && !current;
  if (index && order.length && !named && current?.sae !== index.key) return openLatent(index.key, order[0], false);
}

function arrange() {
  if (!index) return;
  const wanted = $("#search").value.trim().toLowerCase();
  const interpretable = $("#only-interpretable").checked;
  const steered = $("#only-steered").checked;
  const column = COLUMNS.find((c) => c.key === sorting.key);
  const value = (i) => (column.key === "latent" ? i : column.key === "concept" ? name(i) : index[column.key][i]);
  order = [];
  for (let i = 0; i < index.f1.length; i++) {
    if (interpretable && !index.interpretable[i]) continue;
    if (steered && index.effect[i] === null) continue;
    if (wanted && (/^\d+$/.test(wanted) ? !String(i).startsWith(wanted) : !name(i).toLowerCase().includes(wanted))) continue;
    order.push(i);
  }
  if (/^\d+$/.test(wanted)) order.sort((a, b) => (b === Number(wanted)) - (a === Number(wanted)));
  else {
    const none = (x) => x === null || x === "" || x === undefined;
    order.sort((a, b) => {
      const x = value(a);
      const y = value(b);
      if (none(x) || none(y)) return none(x) - none(y) || a - b;
      const way = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return (sorting.down ? -way : way) || a - b;
    });
  }
  $("#count").textContent = `${order.length.toLocaleString("en")} of ${index.f1.length.toLocaleString("en")} latents`;
  const head = $("#rows thead tr");
  head.replaceChildren(
    ...COLUMNS.map((c) =>
      element(
        "th",
        { scope: "col", class: c.number ? "num" : null, "aria-sort": c.key === sorting.key ? (sorting.down ? "descending" : "ascending") : null },
        element("button", { type: "button", on: { click: () => { sorting = { key: c.key, down: c.key === sorting.key ? !sorting.down : Boolean(c.number) && c.key !== "latent" }; arrange(); $(`#rows thead th:nth-child(${COLUMNS.indexOf(c) + 1}) button`).focus(); } } }, c.title),
      ),
    ),
  );
  $("#rows").scrollTop = 0;
  rows();
}

function rows() {
  const box = $("#rows");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 10);
  const last = Math.min(order.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 10);
  const pad = (n) => element("tr", { class: "pad", "aria-hidden": "true" }, element("td", { colspan: COLUMNS.length, style: `height:${n * ROW}px` }));
  const body = order.slice(first, last).map((i) =>
    element(
      "tr",
      { "data-latent": i, "aria-selected": String(current?.latent === i && current?.sae === index.key), on: { click: () => go(index.key, i) } },
      ...COLUMNS.map((c) => element("td", { class: c.number ? "num" : null, title: c.number ? null : name(i) }, c.key === "latent" ? element("a", { href: `#latents/${index.key}/${i}`, tabindex: "-1" }, c.text(i)) : c.text(i))),
    ),
  );
  $("#rows table").setAttribute("aria-rowcount", order.length);
  $("#rows tbody").replaceChildren(...(first ? [pad(first)] : []), ...body, ...(last < order.length ? [pad(order.length - last)] : []));
}

function go(sae, latent) {
  history.replaceState(null, "", `#latents/${sae}/${latent}`);
  return openLatent(sae, latent);
}

if ($("#browser")) {
  $("#rows").addEventListener("scroll", () => requestAnimationFrame(rows));
  $("#rows").addEventListener("keydown", (event) => {
    const at = order.indexOf(current?.latent);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
    if (event.target.id !== "rows" || to === undefined || to < 0 || to >= order.length) return;
    event.preventDefault();
    const box = $("#rows");
    if (to * ROW < box.scrollTop + ROW || (to + 2) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (to - 2) * ROW;
    go(index.key, order[to]);
  });
  $("#search").addEventListener("input", arrange);
  $("#search").addEventListener("keydown", (event) => { if (event.key === "Enter" && order.length) go(index.key, order[0]); });
  for (const id of ["only-interpretable", "only-steered"]) document.getElementById(id).addEventListener("change", arrange);
  $("#which").addEventListener("change", () => list().then(first).catch(fail));
}

// ------------------------------------------------------------------ one latent

function plainTable(title, columns, values) {
  const head = element("tr", {}, ...columns.map(([text, number]) => element("th", { scope: "col", class: number ? "num" : null }, text)));
  const body = values.map((row) => element("tr", {}, ...row.map((text, i) => element("td", { class: columns[i][1] ? "num" : null }, text))));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function chains(example) {
  // chains: [[region, residues], ...] of each chain; at, steps: the residues that fire, counted over the chains
  const strength = new Map(example.at.map((place, i) => [place, example.steps[i]]));
  let place = -1;
  return example.chains.map((parts) =>
    element(
      "div",
      { class: "chain" },
      ...parts.map(([region, residues]) =>
        element(
          "span",
          { class: region.startsWith("CDR") ? "cdr" : "", "data-region": region },
          ...[...residues].map((residue) => {
            place += 1;
            const step = strength.get(place);
            if (step === undefined) return element("b", {}, residue);
            const shade = { style: `--a:${(0.08 + step / 190).toFixed(2)}`, class: step === 99 ? "peak" : null };
            return element("b", { ...shade, title: short((step / 99) * example.activation) }, residue);
          }),
        ),
      ),
    ),
  );
}

async function openLatent(sae, latent, show = true) {
  const about = page.saes.find((s) => s.key === sae);
  if (!about || !(latent >= 0 && latent < about.latents)) return;
  if ($("#which").value !== sae || !index) {
    $("#which").value = sae;
    await list();
  }
  current = { sae, latent };
  const own = { index, data: (await block(`latents-${sae}-${Math.floor(latent / page.chunk)}`))[latent % page.chunk] };
  if (current.latent !== latent || current.sae !== sae) return; // another was chosen meanwhile
  rows();
  const { data } = own;
  const plot = (title, spec, values, note) => {
    const target = element("div", { class: "plot", role: "img", "aria-label": title });
    const part = element("section", {}, element("h3", {}, title), note ? element("p", { class: "count" }, note) : null, target);
    part.draw = () => draw({ ...page.latent[spec], data: { values } }, target).catch(fail);
    return part;
  };
  const parts = [
    element("button", { class: "back", type: "button", on: { click: () => $("#browser").classList.remove("open") } }, "← all latents"),
    element(
      "h2",
      {},
      `${about.title}: latent ${latent}`,
      index.interpretable[latent] ? element("span", { class: "badge yes" }, "interpretable") : null,
      data.dose.length ? element("span", { class: data.steerable ? "badge yes" : "badge" }, data.steerable ? "steerable" : "steered, no effect beyond the controls") : null,
    ),
    element("p", { class: "facts" }, ...data.facts.map(([key, value]) => element("span", {}, `${key} `, element("b", {}, value)))),
  ];
  const plotted = [];
  const add = (part) => { plotted.push(part); return part; };
  if (data.concepts.length)
    parts.push(
      element("h3", {}, "Best concepts"),
      plainTable("Best concepts", [["concept"], ["F1", 1], ["precision", 1], ["recall", 1], ["AUROC", 1], ["r", 1], ["q", 1]],
        data.concepts.map((c) => [c[0], fixed(c[1]), fixed(c[2]), fixed(c[3]), fixed(c[4]), fixed(c[5]), short(c[6])])),
    );
  if (data.dose.length) parts.push(add(plot("Dose-response", "dose", data.dose, "Share of written sequences with the concept, 95% interval; hollow where quality is too low.")));
  if (data.along.length) parts.push(add(plot("Where it fires", "along", data.along.map((value, i) => ({ imgt: page.positions[i][0], region: page.positions[i][1], value })))));
  const pair = element("div", { class: "pair" });
  if (data.regions.length) pair.append(add(plot("By region", "region", data.regions.map(([region, value]) => ({ region, value })))));
  if (data.residues.length) pair.append(add(plot("By residue", "residue", data.residues.map(([residue, value]) => ({ residue, value })))));
  if (pair.children.length) parts.push(pair);
  if (data.lens.length) parts.push(add(plot("What it writes (logit lens)", "lens", data.lens.map(([residue, value]) => ({ residue, value })), "Residues whose logit a unit of the latent raises most, were it read out at once.")));
  if (data.top.length) {
    parts.push(element("h3", {}, "Top-activating antibodies"), element("p", { class: "count" }, "Residues shaded by activation, the strongest outlined; CDRs under the coloured rule."));
    for (const example of data.top)
      parts.push(element("div", { class: "sequence" }, element("p", {}, `${short(example.activation)} · ${example.about} · ${example.id}`), ...chains(example)));
  }
  if (data.near.length)
    parts.push(
      element("h3", {}, "Nearest latents in the other SAEs"),
      element("ul", { class: "near" }, ...data.near.map(([key, other, cosine]) => element("li", {}, element("a", { href: `#latents/${key}/${other}` }, `${page.saes.find((s) => s.key === key).title} ${other} `, element("small", {}, `cosine ${fixed(cosine)}`))))),
    );
  const article = $("#latent");
  $$(".plot", article).forEach((old) => old.view?.finalize());
  article.replaceChildren(...parts.filter((part) => part !== null));
  if (show) $("#browser").classList.add("open");
  await Promise.all(plotted.map((part) => part.draw()));
}

function follow() {
  const [tab, sae, latent] = location.hash.slice(1).split("/");
  const button = tabs.find((t) => t.getAttribute("aria-controls") === tab);
  if (button) choose(button);
  if (tab === "latents" && sae) {
    scrollTo(0, 0);
    openLatent(decodeURIComponent(sae), Number(latent)).catch(fail);
  }
}
addEventListener("hashchange", follow);
follow();
