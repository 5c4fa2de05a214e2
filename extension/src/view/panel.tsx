import { ReactWidget, SidePanel } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';
import { gpuIcon } from '../icon';
import { isHostRow } from '../model/hosts';
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

/** The share of a section with one line. */
const LINE = 0.8;

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

  /** Endpoints and pods are what one comes for; of what is not there one line is enough, and what is worked on needs room. */
  private readonly _share = (): void => {
    const { state, view } = this._hands;
    const { endpoints = [], pods = [], hosts = [] } = state.summary ?? {};
    const [pod, host] = [pods.length > 0 || view.pod !== null, hosts.length > 0 || view.host !== null];
    const sizes =
      view.host || isHostRow(view.open)
        ? [2, pod ? 3 : LINE, 8, 1]
        : view.pod
          ? [2, 7, host ? 2 : LINE, 1]
          : !pod && !host
            ? [24, 2, 2, 12]
            : endpoints.length === 0
              ? [3, pod ? 6 : LINE, host ? 3 : LINE, 2]
              : [4, pod ? 4 : LINE, host ? 3 : LINE, 3];
    if (String(sizes) !== this._sizes) {
      this._sizes = String(sizes);
      (this.content as { setRelativeSizes?: (sizes: number[]) => void }).setRelativeSizes?.(sizes);
    }
  };

  private _sizes = '';
}
