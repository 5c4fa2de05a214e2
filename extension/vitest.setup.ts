// What JupyterLab expects of a browser and jsdom does not have.
const browser = globalThis as unknown as Record<string, unknown>;

browser.DragEvent ??= class extends MouseEvent {};
browser.ResizeObserver ??= class {
  observe(): void {}
  unobserve(): void {}
  disconnect(): void {}
};
Element.prototype.scrollIntoView ??= () => undefined;
browser.matchMedia ??= () => ({
  matches: false,
  addListener: () => undefined,
  addEventListener: () => undefined
});
browser.requestIdleCallback ??= (run: () => void) => setTimeout(run, 0);
// React warns about updates outside of act() unless it knows that this is a test.
browser.IS_REACT_ACT_ENVIRONMENT = true;
