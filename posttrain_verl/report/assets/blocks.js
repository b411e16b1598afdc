"use strict";
// Blocks are gzipped JSON: the index of the rollouts, and chunks of their texts. In a written page they are script
// elements in base64; a served page asks its server for them.
const Blocks = (() => {
  const live = document.body.dataset.live !== "";
  const kept = new Map(); // the chunks that were looked at last, decoded
  const KEEP = 48;

  async function element(name) {
    for (;;) {
      const found = document.getElementById(`block-${name}`);
      // The parser may stand in the middle of it: whole is what has something after it.
      if (found && (found.nextSibling || document.readyState !== "loading")) return found;
      if (document.readyState !== "loading") throw new Error(`the page is cut off: block ${name} is missing`);
      await new Promise((go) => setTimeout(go, 30));
    }
  }

  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  async function gzipped(name) {
    if (!live) return new Blob([bytes((await element(name)).textContent)]).stream();
    const answer = await fetch(`block/${name}`);
    if (!answer.ok) throw new Error(`the server has no block ${name}`);
    return answer.body;
  }

  async function read(name) {
    return new Response((await gzipped(name)).pipeThrough(new DecompressionStream("gzip"))).json();
  }

  function chunk(name) {
    const found = kept.get(name) ?? read(name);
    kept.delete(name);
    kept.set(name, found);
    if (kept.size > KEEP) kept.delete(kept.keys().next().value);
    return found;
  }

  return { live, read, chunk, has: (name) => kept.has(name) };
})();
