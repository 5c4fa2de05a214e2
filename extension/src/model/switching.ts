import type { Specs } from './specs';

/** The target of the comm by which a notebook asks for another kernel: `{"kernelspec": name}`. */
export const TARGET = 'nbgpu.kernel';
/** So long the cell that asks has for its end, in ms: then it is left behind. */
const PATIENCE_MS = 5000;

type Answer = { ok: true } | { ok: false; error: string };

/** What a notebook can do for it. */
export interface Notebook {
  /** to the kernel that asks */
  answer(answer: Answer): void;
  /** resolves when the kernel that asks has nothing to do any more */
  rest(): Promise<void>;
  /** to the kernel of this name */
  change(kernelspec: string): Promise<unknown>;
}

function wanted(data: unknown): string | null {
  const { kernelspec } = (data ?? {}) as { kernelspec?: unknown };
  return typeof kernelspec === 'string' && kernelspec ? kernelspec : null;
}

/** Give a notebook to the kernel that its own kernel asks for. It is answered before anything changes. */
export async function obey(data: unknown, specs: Pick<Specs, 'has' | 'refresh'>, notebook: Notebook): Promise<void> {
  const kernelspec = wanted(data);
  if (kernelspec === null) {
    notebook.answer({ ok: false, error: 'It is not said which kernel.' });
    return;
  }
  const known = specs.has(kernelspec);
  if (known) {
    notebook.answer({ ok: true });
  }
  // the list of which another part of Lab reads may be older
  await specs.refresh().catch(() => undefined);
  if (!specs.has(kernelspec)) {
    if (!known) {
      notebook.answer({ ok: false, error: `JupyterLab has no kernel ${kernelspec}.` });
    }
    return;
  }
  if (!known) {
    notebook.answer({ ok: true });
  }
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([
    notebook.rest(),
    new Promise(resolve => {
      timer = setTimeout(resolve, PATIENCE_MS);
    })
  ]);
  clearTimeout(timer);
  await notebook.change(kernelspec);
}
