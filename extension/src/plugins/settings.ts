import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ISignal, Signal } from '@lumino/signaling';
import { Sort, SORTS } from '../model/order';
import { IPresentation } from '../tokens';

/** The settings as they are; what cannot be read is as by default. */
export class Presentation implements IPresentation {
  constructor(private readonly _settings: ISettingRegistry.ISettings | null) {
    _settings?.changed.connect(() => this._changed.emit());
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get area(): 'left' | 'right' {
    return this._value('area') === 'right' ? 'right' : 'left';
  }

  get sort(): Sort {
    return SORTS.find(sort => sort === this._value('sort')) ?? 'cost';
  }

  get notifications(): boolean {
    return this._value('notifications') !== false;
  }

  get statusItem(): boolean {
    return this._value('statusItem') !== false;
  }

  private _value(name: string): unknown {
    return this._settings?.get(name).composite;
  }

  private readonly _changed = new Signal<this, void>(this);
}

export const settings: JupyterFrontEndPlugin<IPresentation> = {
  id: 'nbgpu:settings',
  description: 'How the panel is shown.',
  autoStart: true,
  provides: IPresentation,
  optional: [ISettingRegistry],
  activate: async (_: JupyterFrontEnd, registry: ISettingRegistry | null): Promise<IPresentation> => {
    try {
      return new Presentation(registry && (await registry.load(settings.id)));
    } catch (reason) {
      console.warn('nbgpu: the settings cannot be read; all is as by default.', reason);
      return new Presentation(null);
    }
  }
};
