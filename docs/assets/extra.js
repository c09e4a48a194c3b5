// What the theme leaves out for keyboards and screen readers: wide tables can be scrolled, copy buttons are told apart
addEventListener("load", () => setTimeout(() => {
  document.querySelectorAll(".md-typeset__scrollwrap, math[display=block]").forEach((wide) => { wide.tabIndex = 0; });
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search the documentation");
  document.querySelectorAll(".md-code__nav").forEach((nav, index) => nav.setAttribute("aria-label", `Code ${index + 1}`));
}));
