// KaTeX 0.19.1 (MIT, see LICENSE) from npm: katex.min.js as released, katex.min.css with the woff2 fonts alone.
// Typeset what pymdownx.arithmatex (generic) has marked: \(...\) in a line, \[...\] by itself.
for (const element of document.querySelectorAll(".arithmatex")) {
  const text = element.textContent.trim();
  katex.render(text.slice(2, -2), element, { displayMode: text.startsWith("\\["), throwOnError: false });
}
