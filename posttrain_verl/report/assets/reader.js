"use strict";
// The rollout reader: filters over the columns of the index, a list of any length, and one rollout in full.
const Reader = (() => {
  const by = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en");
  const snippet = (text) => text.replace(/\s+/g, " ").trim().slice(0, 160);
  let index = null, list = null, searching = 0, chosen, rendered = true;

  const shown = () => JSON.parse(by("shown")?.textContent ?? "{}");

  // Columns of the rows: those of the index, and for each row its chunk and its place in it.
  async function load() {
    const found = await Blocks.read("index");
    const total = found.step.length;
    Object.assign(found, { total, chunk: new Uint32Array(total), set: new Uint8Array(total), names: [...new Set(found.sets)], starts: [] });
    let at = 0;
    for (const [chunk, size] of found.sizes.entries()) {
      found.starts.push(at);
      found.chunk.fill(chunk, at, at + size);
      found.set.fill(found.names.indexOf(found.sets[chunk]), at, at + size);
      at += size;
    }
    return found;
  }

  async function texts(row) {
    const chunk = index.chunk[row];
    const held = await Blocks.chunk(index.chunks[chunk]), at = row - index.starts[chunk];
    return { prompt: held.prompts[held.p[at]], gold: held.golds[held.g[at]], output: held.output[at], parts: held.parts[at] };
  }

  async function open() {
    const { rollouts, total, stride } = shown();
    if (!rollouts) return;
    by("rollouts").hidden = false;
    index = await load();
    by("reader-note").textContent = stride > 1 ? `every ${stride}th step: ${number(rollouts)} of ${number(total)}` : number(rollouts);
    choices(by("set"), ["everything", ...index.names]);
    choices(by("kind"), ["any", ...index.kinds.filter((_, kind) => index.kind.includes(kind))]);
    list ??= listen();
    await filter();
    if (chosen === undefined && list.items.length) await list.select(0);
  }

  function choices(select, names) {
    const before = select.value;
    select.replaceChildren(...names.map((name, i) => new Option(name, i ? name : "")));
    if (names.includes(before)) select.value = before;
  }

  function listen() {
    let soon;
    const form = by("filters");
    const later = (event) => {
      clearTimeout(soon);
      soon = setTimeout(filter, event.target.type === "search" ? 200 : 60);
    };
    form.addEventListener("input", later);
    form.addEventListener("change", (event) => event.target.matches("select") && later(event)); // some browsers say only this
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
    by("fresh").addEventListener("click", () => { by("fresh").hidden = true; open(); });
    return new VirtualList(by("list"), fill, choose);
  }

  function wanted() {
    const limit = (id, none) => (by(id).value === "" ? none : Number(by(id).value));
    const set = index.names.indexOf(by("set").value), kind = index.kinds.indexOf(by("kind").value);
    const [first, last] = [limit("step-low", -Infinity), limit("step-high", Infinity)];
    const [low, high] = [limit("score-low", -Infinity), limit("score-high", Infinity)];
    const scored = by("score-low").value !== "" || by("score-high").value !== "";
    const rows = [];
    for (let row = 0; row < index.total; row++) {
      const score = index.score[row];
      if ((set < 0 || index.set[row] === set) && (kind < 0 || index.kind[row] === kind) && index.step[row] >= first &&
          index.step[row] <= last && (!scored || (score !== null && score >= low && score <= high))) rows.push(row);
    }
    return sorted(rows, by("order").value);
  }

  function sorted(rows, order) {
    const { step, score, length } = index;
    const compare = { newest: (a, b) => step[b] - step[a] || a - b, worst: (a, b) => score[a] - score[b] || a - b,
                      best: (a, b) => score[b] - score[a] || a - b, longest: (a, b) => length[b] - length[a] || a - b }[order];
    return compare ? rows.sort(compare) : rows;
  }

  async function filter() {
    const turn = ++searching, rows = wanted(), term = by("search").value.trim().toLowerCase();
    if (!term) return present(rows, `${number(rows.length)} of ${number(index.total)}`);
    const hits = await search(rows, term, () => turn === searching);
    if (hits) present(sorted([...hits].sort((a, b) => a - b), by("order").value), `${number(hits.length)} of ${number(index.total)} hold “${term}”`);
  }

  // Reads every chunk that has rows in question, and shows hits as they come. Null when a newer search has begun.
  async function search(rows, term, current) {
    const queues = new Map();
    for (const row of rows) {
      const chunk = index.chunk[row];
      if (!queues.has(chunk)) queues.set(chunk, []);
      queues.get(chunk).push(row);
    }
    const hits = [];
    let done = 0, told = performance.now();
    for (const [chunk, asked] of queues) {
      const name = index.chunks[chunk], held = await (Blocks.has(name) ? Blocks.chunk(name) : Blocks.read(name));
      if (!current()) return null;
      const [prompts, golds] = [held.prompts, held.golds].map((all) => all.map((text) => text.toLowerCase().includes(term)));
      for (const row of asked) {
        const at = row - index.starts[chunk];
        if (prompts[held.p[at]] || golds[held.g[at]] || held.output[at].toLowerCase().includes(term)) hits.push(row);
      }
      done += 1;
      if (performance.now() - told > 250) {
        told = performance.now();
        present([...hits], `${number(hits.length)} found, ${Math.round((100 * done) / queues.size)} % searched`);
      }
    }
    return hits;
  }

  function present(rows, said) {
    list.show(rows, chosen);
    by("count").textContent = said;
  }

  function element(tag, attributes = {}, ...children) {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  }

  function kind(row) {
    const name = index.kinds[index.kind[row]];
    return element("span", { className: `state kind-${name}`, textContent: name });
  }

  const score = (row) => (index.score[row] === null ? "no score" : String(+index.score[row].toFixed(3)));
  const where = (row) => (index.step[row] || index.names[index.set[row]] === "training" ? `step ${number(index.step[row])}` : index.names[index.set[row]]);

  function fill(root, row) {
    const facts = element("div", { className: "facts" }, kind(row), element("strong", { textContent: score(row) }),
      element("span", { className: "end", textContent: where(row) }));
    const text = element("div", { className: "text", textContent: "…" });
    root.replaceChildren(facts, text);
    texts(row).then(({ output }) => { text.textContent = snippet(output) || "(empty)"; });
  }

  // The answers to the same prompt in the same step: the group whose rewards make the advantage.
  function group(row) {
    const chunk = index.chunk[row], from = index.starts[chunk], rows = [];
    for (let other = from; other < from + index.sizes[chunk]; other++) {
      if (index.group[other] === index.group[row] && index.step[other] === index.step[row]) rows.push(other);
    }
    return rows;
  }

  async function choose(row) {
    chosen = row;
    const { prompt, gold, output, parts } = await texts(row);
    if (chosen !== row) return;
    const prose = (text, name) => element("div", { className: `prose ${name}` }, ...Mathematics.nodes(text, rendered));
    const root = by("rollout");
    root.replaceChildren(
      element("h3", {}, `${[...new Set([index.names[index.set[row]], where(row)])].join(", ")} `, kind(row), ` reward ${score(row)}`), tools(row), siblings(row),
      element("div", { className: "halves" },
        element("section", {}, element("h4", { textContent: "Prompt" }), prose(prompt, "prompt"), element("h4", { textContent: "Gold" }),
          prose(gold || "none", "gold"), element("h4", { textContent: "Grade" }), grade(row, parts)),
        element("section", {}, element("h4", { textContent: `Response, ${number(index.length[row])} characters` }), prose(output, "response"))));
    root.scrollTop = 0;
    highlight(root);
  }

  function tools(row) {
    const box = element("input", { type: "checkbox", checked: rendered });
    box.addEventListener("change", () => { rendered = box.checked; choose(row); });
    return element("div", { className: "tools" }, element("label", {}, box, "formulas rendered"));
  }

  function siblings(row) {
    const rows = group(row), root = element("div", { className: "siblings" });
    if (rows.length < 2) return root;
    root.append(element("span", { className: "quiet", textContent: `${rows.length} answers to this prompt:` }));
    for (const other of rows) {
      const button = element("button", { type: "button", textContent: score(other) });
      button.setAttribute("aria-label", `answer ${rows.indexOf(other) + 1}, reward ${score(other)}`);
      if (other === row) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => {
        const at = list.items.indexOf(other);
        if (at >= 0) list.select(at);
        else choose(other);
      });
      root.append(button);
    }
    return root;
  }

  function grade(row, parts) {
    const table = element("table", { className: "grade" });
    for (const [name, value] of [["score", index.score[row]], ...Object.entries(parts)]) {
      if (value === null || value === "") continue;
      const line = table.insertRow();
      line.append(element("th", { scope: "row", textContent: name.replaceAll("_", " ") }));
      line.insertCell().textContent = typeof value === "object" ? JSON.stringify(value) : String(value);
    }
    return table;
  }

  function highlight(root) {
    if (!globalThis.Highlight) return;
    const term = by("search").value.trim().toLowerCase(), marks = new Highlight();
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); term && node; node = walk.nextNode()) {
      const text = node.data.toLowerCase();
      for (let at = text.indexOf(term); at >= 0; at = text.indexOf(term, at + term.length)) {
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, Math.min(node.length, at + term.length));
        marks.add(range);
      }
    }
    CSS.highlights.set("found", marks);
  }

  // A live page has newer rollouts: they are listed when the reader wants them, not under his hands.
  function offer() {
    const { rollouts } = shown();
    if (!index) return open();
    by("fresh").hidden = rollouts === index.total;
    by("fresh").textContent = `show ${number(rollouts - index.total)} new rollouts`;
  }

  return { open, offer };
})();
Reader.open().then(() => performance.mark("reader")); // benchmarks/report.py asks when
