import { ReactWidget, SidePanel } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';
import { gpuIcon } from '../icon';
import { PANEL } from '../tokens';
import { Activity } from './activity';
import { Hands, HandsProvider } from './context';
import { Endpoints } from './endpoints';
import { Hosts } from './hosts';
import { Overview } from './overview';
import { Pods } from './pods';

/** One section: a component with what it draws. */
function section(hands: Hands, label: string, draw: React.ReactElement): ReactWidget {
  const widget = ReactWidget.create(<HandsProvider value={hands}>{draw}</HandsProvider>);
  widget.addClass('nbgpu-Section');
  widget.title.label = label;
  return widget;
}

/** The side panel. It reads when it is seen for the first time. */
export class Panel extends SidePanel {
  constructor(private readonly _hands: Hands) {
    super();
    this.id = PANEL;
    this.addClass('nbgpu-Panel');
    this.title.icon = gpuIcon;
    this.title.caption = 'GPU endpoints';
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'GPU endpoints');
    const overview = section(_hands, 'Overview', <Overview />);
    overview.removeClass('nbgpu-Section');
    this.header.addWidget(overview);
    this.addWidget(section(_hands, 'Endpoints', <Endpoints />));
    this.addWidget(section(_hands, 'Pods', <Pods />));
    this.addWidget(section(_hands, 'Hosts', <Hosts />));
    this.addWidget(section(_hands, 'Activity', <Activity />));
    _hands.state.changed.connect(this._share);
    _hands.view.changed.connect(this._share);
    this._share();
  }

  override dispose(): void {
    this._hands.state.changed.disconnect(this._share);
    this._hands.view.changed.disconnect(this._share);
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._hands.state.attend(true);
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._hands.state.attend(false);
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this._hands.state.attend(true);
    }
  }

  /** Endpoints and pods are what one comes for; of what is not there one line is enough, and a form needs room. */
  private readonly _share = (): void => {
    const { state, view } = this._hands;
    const { endpoints = [], pods = [], hosts = [] } = state.summary ?? {};
    const formed = view.pod !== null || view.host !== null;
    const bare = (one: boolean, share: number): number => (one ? share : 0.8);
    const sizes =
      pods.length + hosts.length === 0 && !formed
        ? [24, 2, 2, 12]
        : [
            formed || endpoints.length === 0 ? 3 : 4,
            view.pod ? 6 : bare(pods.length > 0, endpoints.length === 0 ? 6 : 4),
            view.host ? 7 : bare(hosts.length > 0, 3),
            formed || endpoints.length === 0 ? 2 : 3
          ];
    if (String(sizes) !== this._sizes) {
      this._sizes = String(sizes);
      (this.content as { setRelativeSizes?: (sizes: number[]) => void }).setRelativeSizes?.(sizes);
    }
  };

  private _sizes = '';
}
