"use strict";
// Formulas of a text as MathML, made by KaTeX and laid out by the browser. What does not parse stays as marked source.
const Mathematics = (() => {
  const FORMULA = /\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|(?<![\\$])\$(?!\s)(?=[^$\n]*[\\^_=+a-zA-Z{]|[\d.,]+\$)([^$\n]+?)(?<![\\\s])\$(?!\d)|(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})+\})/g;

  const isBlock = (source) => source.startsWith("$$") || source.startsWith("\\[");

  function formula(source, latex) {
    const span = document.createElement("span");
    try {
      span.innerHTML = katex.renderToString(latex, { output: "mathml", displayMode: isBlock(source), strict: "ignore", trust: false, maxExpand: 200 });
      span.title = source;
    } catch (error) {
      if (!(error instanceof katex.ParseError)) throw error;
      span.className = "raw";
      span.title = "this formula does not parse";
      span.textContent = source;
    }
    return span;
  }

  // Nodes of a text: its plain parts as text, its formulas rendered.
  function nodes(text, render = true) {
    if (!render) return [document.createTextNode(text)];
    const out = [];
    let at = 0;
    for (const found of text.matchAll(FORMULA)) {
      const block = isBlock(found[0]), before = text.slice(at, found.index), end = found.index + found[0].length;
      out.push(document.createTextNode(block ? before.trimEnd() : before), formula(found[0], found.slice(1).find((group) => group !== undefined)));
      at = block ? end + text.slice(end).match(/^\s*/)[0].length : end; // a block stands on lines of its own already
    }
    out.push(document.createTextNode(text.slice(at)));
    return out;
  }

  return { nodes };
})();
