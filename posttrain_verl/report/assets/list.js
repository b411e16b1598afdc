"use strict";
// A list of any length: only the rows in view are elements.
class VirtualList {
  static HEIGHT = 56;

  // `fill(element, item)` writes one row; `choose(item)` is called when one is selected.
  constructor(root, fill, choose) {
    Object.assign(this, { root, fill, choose, items: [], at: -1, rows: new Map() });
    this.inner = root.appendChild(document.createElement("div"));
    this.inner.setAttribute("role", "presentation");
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.select(Number(row.dataset.at));
    });
    new ResizeObserver(() => this.draw()).observe(root);
  }

  // Shows other items; the selection stays on `item` where it is among them.
  show(items, item) {
    this.items = items;
    this.at = item === undefined ? -1 : items.indexOf(item);
    this.inner.style.height = `${items.length * VirtualList.HEIGHT}px`;
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.draw();
  }

  draw() {
    const { scrollTop, clientHeight } = this.root;
    const first = Math.max(0, Math.floor(scrollTop / VirtualList.HEIGHT) - 4);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / VirtualList.HEIGHT) + 4);
    for (const [at, row] of this.rows) {
      if (at < first || at >= last) {
        row.remove();
        this.rows.delete(at);
      }
    }
    for (let at = first; at < last; at++) if (!this.rows.has(at)) this.rows.set(at, this.row(at));
    this.mark();
  }

  row(at) {
    const row = this.inner.appendChild(document.createElement("div"));
    row.className = "row";
    row.id = `row-${at}`;
    row.dataset.at = at;
    row.style.top = `${at * VirtualList.HEIGHT}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-posinset", at + 1);
    row.setAttribute("aria-setsize", this.items.length);
    this.fill(row, this.items[at]);
    return row;
  }

  mark() {
    for (const [at, row] of this.rows) row.setAttribute("aria-selected", at === this.at);
    if (this.rows.has(this.at)) this.root.setAttribute("aria-activedescendant", `row-${this.at}`);
    else this.root.removeAttribute("aria-activedescendant");
  }

  select(at) {
    if (!this.items.length) return undefined;
    this.at = Math.max(0, Math.min(this.items.length - 1, at));
    const top = this.at * VirtualList.HEIGHT, bottom = top + VirtualList.HEIGHT;
    if (top < this.root.scrollTop) this.root.scrollTop = top;
    else if (bottom > this.root.scrollTop + this.root.clientHeight) this.root.scrollTop = bottom - this.root.clientHeight;
    this.draw();
    return this.choose(this.items[this.at]);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.root.clientHeight / VirtualList.HEIGHT) - 1);
    const to = { ArrowDown: this.at + 1, j: this.at + 1, ArrowUp: this.at - 1, k: this.at - 1, PageDown: this.at + page,
                 PageUp: this.at - page, Home: 0, End: this.items.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.select(to);
  }
}
